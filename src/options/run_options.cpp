#include "idistill/options/run_options.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>

#include "idistill/options/option_kinds.hpp"
#include "idistill/options/run_settings.hpp"

namespace idistill::options {
namespace {

using nlohmann::json;

const std::string what = "What";
const std::string run = "Run";
const std::string landmark_targets = "pool";

void read_pool(InputSettings& settings, const Given& given) {
    for (auto file = given.values.begin(); file != given.values.end(); ++file) {
        if (file->empty()) refuse(given, "a file", "nothing", "Leave the empty value out.");
        if (std::find(given.values.begin(), file, *file) != file)
            refuse(given, "every file once", in_quotes(*file) + " twice", "Give it once.");
    }
    settings.pool = given.values;
}

void read_targets(InputSettings& settings, const Given& given) {
    settings.targets.clear();
    settings.landmark_targets = given.values == std::vector<std::string>{landmark_targets};
    if (settings.landmark_targets) return;
    for (const auto& text : given.values) {
        const auto [name, path] = named(given, text, "NAME=FILE");
        for (const auto& other : settings.targets)
            if (other.name == name)
                refuse(given, "every task name once", in_quotes(name) + " twice", "Rename one of the two targets.");
        settings.targets.push_back({name, path});
    }
}

Option pool_option() {
    auto option = own_option<InputSettings>(
        declared(what, "pool FILE ...", "token files of the pool, from jobs/prepare.py; several are read as one",
                 of_run | of_embed | required | decides_nothing),
        read_pool, [](const InputSettings& s) { return s.pool.empty() ? json() : json(s.pool); });
    option.reads = [](const Values& values) {
        std::vector<InputFile> files;
        for (const auto& path : values.of<InputSettings>().pool) files.push_back({"--pool", path});
        return files;
    };
    return option;
}

Option target_option() {
    auto option = own_option<InputSettings>(declared(what, "target NAME=FILE ...",
                                                     "a task to select for: its name and the token file of its "
                                                     "examples;\npool: the labelled samples of the pool "
                                                     "themselves, to represent it",
                                                     of_run | decides_nothing),
                                            read_targets, [](const InputSettings& s) {
                                                auto list = json::array();
                                                if (s.landmark_targets) list.push_back(landmark_targets);
                                                for (const auto& target : s.targets)
                                                    list.push_back(target.name + "=" + target.path);
                                                return list.empty() ? json() : list;
                                            });
    option.reads = [](const Values& values) {
        std::vector<InputFile> files;
        for (const auto& [name, path] : values.of<InputSettings>().targets) files.push_back({"--target " + name, path});
        return files;
    };
    return option;
}

/// A required option that names a file or folder to read.
Option file_option(const std::string& usage, const std::string& help, unsigned commands,
                   std::string InputSettings::*member) {
    auto option = text_option(declared(what, usage, help, commands | required | decides_nothing), member);
    option.reads = names_file(option.name, member);
    return option;
}

/// auto counts in the run's identity as what it is without a GPU.
Option never_auto(const char* word, Option option) {
    option.identity = [word, show = option.show](const Values& values) {
        const auto shown = show(values);
        return shown == "auto" ? json(word) : shown;
    };
    return option;
}

/// A number that a GPU has another default of.
template <class T>
Option number_or_fitting(Option option, T RunSettings::*member, bool RunSettings::*given, T low, T high) {
    auto made = number_option(std::move(option), member, low, high);
    made.apply = [apply = made.apply, given](Values& values, const Given& text) {
        apply(values, text);
        values.of<RunSettings>().*given = true;
    };
    return made;
}

}  // namespace

std::vector<Option> input_options() {
    const auto all = of_run | of_select | of_embed;
    return {file_option("model DIR", "Hugging Face model directory (config.json, *.safetensors)", of_run | of_embed,
                        &InputSettings::model),
            pool_option(),
            target_option(),
            file_option("result FILE", "an existing result, to select from again", of_select, &InputSettings::result),
            text_option(declared(what, "out FILE", "the HDF5 result to write, never half-written under this name",
                                 all | required | decides_nothing),
                        &InputSettings::out),
            switch_option(declared(what, "overwrite", "replace a finished result", all | decides_nothing),
                          &InputSettings::overwrite),
            switch_option(declared(what, "drop-overlap",
                                   "leave out samples of the pool that a target has too, by equal tokens and labels"),
                          &InputSettings::drop_overlap),
            choice_option(declared(what, "columns KIND",
                                   "samples: one influence column per target sample;\ntasks: one per target"),
                          &InputSettings::columns, {{"samples", ColumnKind::samples}, {"tasks", ColumnKind::tasks}})};
}

std::vector<Option> run_options() {
    const auto computing = of_run | of_embed, all = computing | of_select;
    return {
        number_option(declared(run, "seed N", "of all random numbers", all), &RunSettings::seed, 0,
                      std::numeric_limits<std::uint64_t>::max()),
        never_auto(
            "cpu",
            choice_option(
                declared(run, "device KIND",
                         "cpu, or cuda, where every rank has a GPU of its own; with auto\ncuda where there are GPUs",
                         computing),
                &RunSettings::device,
                {{"auto", DeviceKind::automatic}, {"cpu", DeviceKind::cpu}, {"cuda", DeviceKind::cuda}})),
        never_auto("fp32", choice_option(
                               declared(run, "dtype KIND",
                                        "of weights and activations, fp32 or bf16, with auto bf16 on a\nGPU; sums, "
                                        "losses and sketches are in fp32",
                                        computing),
                               &RunSettings::dtype,
                               {{"auto", DtypeKind::automatic}, {"fp32", DtypeKind::fp32}, {"bf16", DtypeKind::bf16}})),
        number_option(declared(run, "threads N", "threads per rank; more ranks use cores better", computing),
                      &RunSettings::threads, 1, 1024),
        number_or_fitting(declared(run, "batch-tokens N",
                                   "tokens computed at once; more takes more memory;\non a GPU by default what its "
                                   "memory holds",
                                   computing),
                          &RunSettings::batch_tokens, &RunSettings::batch_tokens_given, std::int64_t{1},
                          std::int64_t{1} << 24),
        number_or_fitting(declared(run, "unit-flops F",
                                   "planned cost of a work unit, which has at least one sample: what a crash loses per "
                                   "rank, what ranks share out; on a GPU by default 2e15",
                                   computing),
                          &RunSettings::unit_flops, &RunSettings::unit_flops_given, 1.0, 1e18),
        number_option(
            declared(run, "stall-timeout S", "seconds without any rank computing while one waits before the job ends",
                     all | decides_nothing),
            &RunSettings::stall_timeout_seconds, 1.0, 1e6)};
}

}  // namespace idistill::options
