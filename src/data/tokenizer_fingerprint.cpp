#include "idistill/data/tokenizer_fingerprint.hpp"

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <span>

#include "idistill/base/lfs_pointer.hpp"
#include "idistill/data/sha256.hpp"

namespace idistill::data {
namespace {

using nlohmann::json;

std::map<std::string, std::int64_t> token_ids(const json& tokenizer) {
    std::map<std::string, std::int64_t> ids;
    const auto& vocabulary = tokenizer.at("model").at("vocab");
    if (vocabulary.is_array()) {  // Unigram: [token, log probability] in order of id
        for (std::size_t id = 0; id < vocabulary.size(); ++id)
            ids[vocabulary[id].at(0).get<std::string>()] = static_cast<std::int64_t>(id);
    } else {
        for (const auto& [token, id] : vocabulary.items()) ids[token] = id.get<std::int64_t>();
    }
    return ids;
}

std::string hash_of(const json& tokenizer) {
    auto ids = token_ids(tokenizer);
    std::set<std::string> special;
    if (tokenizer.contains("added_tokens")) {
        for (const auto& token : tokenizer["added_tokens"]) {
            const auto content = token.at("content").get<std::string>();
            ids[content] = token.at("id").get<std::int64_t>();
            if (token.at("special").get<bool>()) special.insert(content);
        }
    }
    std::string text;
    for (const auto& [token, id] : ids) text.append(token).append(1, '\0').append(std::to_string(id)).append(1, '\n');
    if (tokenizer["model"].contains("merges")) {
        for (const auto& merge : tokenizer["model"]["merges"]) {
            if (merge.is_string()) {
                auto pair = merge.get<std::string>();
                const auto space = pair.find(' ');
                if (space != std::string::npos) pair[space] = '\0';
                text.append(pair);
            } else {
                text.append(merge.at(0).get<std::string>()).append(1, '\0').append(merge.at(1).get<std::string>());
            }
            text.append(1, '\n');
        }
    }
    for (const auto& token : special) text.append(token).append(1, '\n');
    return sha256_of(std::as_bytes(std::span(text)));
}

}  // namespace

TokenizerFingerprint tokenizer_fingerprint(const std::string& model_directory) {
    const auto path = std::filesystem::path(model_directory) / "tokenizer.json";
    const auto none = [&path](const std::string& what, const std::string& remedy) -> TokenizerFingerprint {
        return {{}, path.string() + what + ". " + remedy};
    };
    std::ifstream stream(path);
    if (!stream) return none(" cannot be read", "Copy the tokenizer's files into the model directory.");
    const auto tokenizer = json::parse(stream, nullptr, false);
    try {
        if (tokenizer.is_object()) return {hash_of(tokenizer), {}};
    } catch (const json::exception&) {  // another kind of JSON
    }
    if (const auto pointer = lfs_remedy(path.string())) return none(" is a Git LFS pointer", *pointer);
    return none(" is no tokenizer", "Copy the tokenizer's files into the model directory again.");
}

}  // namespace idistill::data
