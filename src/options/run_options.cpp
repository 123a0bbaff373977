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
        {.name = "pool",
         .group = what,
         .value_name = "FILE",
         .help = "token files of the pool, from jobs/prepare.py; several are read as one",
         .list = true,
         .required = true,
         .of_embed = true,
         .decides = Decides::nothing},
        read_pool, [](const InputSettings& s) { return s.pool.empty() ? json() : json(s.pool); });
    option.reads = [](const Values& values) {
        std::vector<InputFile> files;
        for (const auto& path : values.of<InputSettings>().pool) files.push_back({"--pool", path});
        return files;
    };
    return option;
}

Option target_option() {
    auto option =
        own_option<InputSettings>({.name = "target",
                                   .group = what,
                                   .value_name = "NAME=FILE",
                                   .help = "a task to select for: its name and the token file of its examples",
                                   .list = true,
                                   .required = true,
                                   .decides = Decides::nothing},
                                  read_targets, [](const InputSettings& s) {
                                      auto list = json::array();
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

/// Of a build with one device and one type of number: naming them changes nothing of the run's identity.
Option always(const char* word, Option option) {
    option.identity = [word](const Values&) { return json(word); };
    return option;
}

}  // namespace

std::vector<Option> input_options() {
    return {text_option({.name = "model",
                         .group = what,
                         .value_name = "DIR",
                         .help = "Hugging Face model directory (config.json, *.safetensors)",
                         .required = true,
                         .of_embed = true,
                         .decides = Decides::nothing,
                         .reads = names_file("model", &InputSettings::model)},
                        &InputSettings::model),
            pool_option(),
            target_option(),
            text_option({.name = "result",
                         .group = what,
                         .value_name = "FILE",
                         .help = "an existing result, to select from again",
                         .required = true,
                         .of_run = false,
                         .of_select = true,
                         .decides = Decides::nothing,
                         .reads = names_file("result", &InputSettings::result)},
                        &InputSettings::result),
            text_option({.name = "out",
                         .group = what,
                         .value_name = "FILE",
                         .help = "the HDF5 result to write, never half-written under this name",
                         .required = true,
                         .of_select = true,
                         .of_embed = true,
                         .decides = Decides::nothing},
                        &InputSettings::out),
            switch_option({.name = "overwrite",
                           .group = what,
                           .help = "replace a finished result",
                           .of_select = true,
                           .of_embed = true,
                           .decides = Decides::nothing},
                          &InputSettings::overwrite),
            choice_option({.name = "columns",
                           .group = what,
                           .value_name = "KIND",
                           .help = "samples: one influence column per target sample;\ntasks: one per target"},
                          &InputSettings::columns, {{"samples", ColumnKind::samples}, {"tasks", ColumnKind::tasks}})};
}

std::vector<Option> run_options() {
    return {
        number_option({.name = "seed",
                       .group = run,
                       .value_name = "N",
                       .help = "of all random numbers",
                       .of_select = true,
                       .of_embed = true},
                      &RunSettings::seed, 0, std::numeric_limits<std::uint64_t>::max()),
        always("cpu", choice_option({.name = "device",
                                     .group = run,
                                     .value_name = "KIND",
                                     .help = "auto or cpu (this build has no GPU back end)",
                                     .of_embed = true},
                                    &RunSettings::device, {{"auto", DeviceKind::automatic}, {"cpu", DeviceKind::cpu}},
                                    {{"cuda", "This build has no GPU back end: use --device cpu."}})),
        always("fp32",
               choice_option(
                   {.name = "dtype", .group = run, .value_name = "KIND", .help = "auto or fp32", .of_embed = true},
                   &RunSettings::dtype, {{"auto", DtypeKind::automatic}, {"fp32", DtypeKind::fp32}},
                   {{"bf16", "This build computes in fp32 on CPUs: use --dtype fp32."}})),
        number_option({.name = "threads",
                       .group = run,
                       .value_name = "N",
                       .help = "threads per rank; more ranks use cores better",
                       .of_embed = true},
                      &RunSettings::threads, 1, 1024),
        number_option({.name = "batch-tokens",
                       .group = run,
                       .value_name = "N",
                       .help = "tokens computed at once; more takes more memory",
                       .of_embed = true},
                      &RunSettings::batch_tokens, 1, std::int64_t{1} << 24),
        number_option({.name = "unit-flops",
                       .group = run,
                       .value_name = "F",
                       .help = "planned cost of a work unit: what a crash loses per rank, what ranks share out",
                       .of_embed = true},
                      &RunSettings::unit_flops, 1.0, 1e18),
        number_option({.name = "stall-timeout",
                       .group = run,
                       .value_name = "S",
                       .help = "seconds without any rank computing while one waits before the job ends",
                       .of_select = true,
                       .of_embed = true,
                       .decides = Decides::nothing},
                      &RunSettings::stall_timeout_seconds, 1.0, 1e6)};
}

}  // namespace idistill::options
