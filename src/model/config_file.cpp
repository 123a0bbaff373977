#include "config_file.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <regex>

#include "idistill/base/error.hpp"
#include "idistill/base/lfs_pointer.hpp"

namespace idistill::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

[[noreturn]] void refuse_directory(const std::string& found, const std::string& remedy) {
    throw Error(ExitCode::bad_input,
                {"--model", {}, "a model directory, with config.json and *.safetensors", found, remedy});
}

/// "ORGANISATION/NAME", the form of an id of huggingface.co.
bool may_be_hub_id(const std::string& text) {
    static const std::regex form("[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*");
    return std::regex_match(text, form);
}

[[noreturn]] void refuse_missing(const std::string& directory) {
    if (!may_be_hub_id(directory)) refuse_directory("nothing at " + directory, "Check the path.");
    const auto name = directory.substr(directory.find('/') + 1);
    refuse_directory(
        fmt::format("{}, which is no folder here", directory),
        fmt::format("If it is an id of huggingface.co, download the model: `hf download {} --local-dir {}`,"
                    " and give --model {}.",
                    directory, name, name));
}

/// transformers would load the base that it names, and the adapter on top, if it has PEFT.
[[noreturn]] void refuse_adapter(const std::string& directory, const fs::path& adapter) {
    std::ifstream file(adapter);
    const auto values = json::parse(file, nullptr, false);
    const auto named = values.is_object() ? values.value("base_model_name_or_path", json()) : json();
    const auto base = named.is_string() ? named.get<std::string>() : "BASE";
    const bool own_tokenizer = fs::exists(fs::path(directory) / "tokenizer_config.json");
    const bool whole = fs::exists(fs::path(directory) / "config.json");
    refuse_directory(
        fmt::format("an adapter of {} in {}", base, directory),
        fmt::format("Merge it into its base first: `python -c \"from peft import AutoPeftModelForCausalLM as M; "
                    "from transformers import AutoTokenizer as T; "
                    "M.from_pretrained('{}').merge_and_unload().save_pretrained('merged'); "
                    "T.from_pretrained('{}').save_pretrained('merged')\"`, and give --model merged.{}",
                    directory, own_tokenizer ? directory : base,
                    whole ? " If the weights there are merged already, remove adapter_config.json from a copy." : ""));
}

[[noreturn]] void refuse_without_config(const std::string& directory) {
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(fs::path(directory) / "snapshots", ignored))
        if (fs::exists(entry.path() / "config.json"))
            refuse_directory("the download cache " + directory,
                             "Give --model a model in it: " + entry.path().string() + ".");
    refuse_directory("no config.json in " + directory, "Give the directory that holds config.json and *.safetensors.");
}

}  // namespace

ConfigFile::ConfigFile(const std::string& model_directory)
    : path_((fs::path(model_directory) / "config.json").string()) {
    const fs::path directory(model_directory);
    if (!fs::exists(directory)) refuse_missing(model_directory);
    if (!fs::is_directory(directory))
        refuse_directory("the file " + model_directory, "Give the directory that it lies in.");
    if (const auto adapter = directory / "adapter_config.json"; fs::exists(adapter))
        refuse_adapter(model_directory, adapter);
    if (!fs::exists(path_)) refuse_without_config(model_directory);
    std::ifstream file(path_);
    if (!file) refuse({}, "a file that can be read", "none", "Check its permissions.");
    try {
        values_ = json::parse(file);
    } catch (const json::exception& error) {
        const auto pointer = lfs_remedy(path_);
        refuse({}, "JSON", pointer ? "a Git LFS pointer" : error.what(),
               pointer.value_or("Correct the file, or download it again."));
    }
    if (!values_.is_object()) refuse({}, "a JSON object", values_.type_name(), correct_value);
}

void ConfigFile::refuse(const std::string& key, const std::string& expected, const std::string& found,
                        const std::string& remedy) const {
    throw Error(ExitCode::bad_input, {path_, key, expected, found, remedy});
}

std::int64_t ConfigFile::size(const std::string& key, std::optional<std::int64_t> standard) const {
    const json found = value(key);
    if (found.is_null() && standard) return *standard;
    constexpr std::int64_t most = std::int64_t{1} << 40;
    if (!found.is_number_integer() || found.get<std::int64_t>() < 1 || found.get<std::int64_t>() > most)
        refuse(key, "a whole number of at least 1", shown(found), correct_value);
    return found.get<std::int64_t>();
}

bool ConfigFile::flag(const std::string& key, bool standard) const {
    const json found = value(key);
    if (found.is_null()) return standard;
    if (!found.is_boolean()) refuse(key, "true or false", shown(found), correct_value);
    return found.get<bool>();
}

double ConfigFile::number(const json& object, const std::string& prefix, const std::string& key,
                          std::optional<double> standard) const {
    const json found = object.value(key, json());
    if (found.is_null() && standard) return *standard;
    if (!found.is_number() || !(found.get<double>() > 0.0))
        refuse(prefix + key, "a number above 0", shown(found), correct_value);
    return found.get<double>();
}

}  // namespace idistill::model
