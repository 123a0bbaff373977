#include "options.hpp"

#include <algorithm>
#include <cmath>

#include "idistill/influence/gradient/options.hpp"
#include "idistill/influence/members.hpp"
#include "idistill/options/option_kinds.hpp"
#include "settings.hpp"

namespace idistill::influence {

using namespace options;

namespace {

/// DIR:LR, split at the last ':'.
Checkpoint checkpoint_of(const Given& given, const std::string& text) {
    const auto colon = text.rfind(':');
    if (colon == std::string::npos || colon == 0)
        refuse(given, "DIR:LR, a model directory and its learning rate", in_quotes(text),
               "For example --checkpoint warm/checkpoint-100:2e-5.");
    const auto rate = whole<double>(text.substr(colon + 1));
    if (!rate || !std::isfinite(*rate) || *rate <= 0.0)
        refuse(given, "DIR:LR, LR a number above 0", in_quotes(text),
               "Give the learning rate that the training had at this checkpoint; 1 where all count alike.");
    return {text.substr(0, colon), *rate};
}

void read_checkpoints(LessSettings& settings, const Given& given) {
    settings.checkpoints.clear();
    for (const auto& text : given.values) {
        auto checkpoint = checkpoint_of(given, text);
        if (std::any_of(settings.checkpoints.begin(), settings.checkpoints.end(),
                        [&](const Checkpoint& other) { return other.directory == checkpoint.directory; }))
            refuse(given, "every checkpoint once", in_quotes(checkpoint.directory) + " twice",
                   "Give it once, with the sum of its learning rates.");
        settings.checkpoints.push_back(std::move(checkpoint));
    }
}

}  // namespace

std::vector<Option> less_options() {
    auto checkpoint = own_option<LessSettings>(
        {.name = "checkpoint",
         .group = option_group,
         .value_name = "DIR:LR",
         .help =
             "model directory with optimizer.safetensors in it, from jobs/warmup.py, and its learning rate:\n"
             "influence is summed over all, times these; without it, of --model with --optimizer; may be repeated;\n"
             "--sketch-dim auto is 1310720 over all of them",
         .list = true,
         .decides = Decides::nothing,
         .words = {{"dir:1", "DIR:LR"}}},
        read_checkpoints, [](const LessSettings& s) {
            auto list = nlohmann::json::array();
            for (const auto& [directory, rate] : s.checkpoints) list.push_back(directory + ":" + shortest(rate));
            return list.empty() ? nlohmann::json() : list;
        });
    checkpoint.reads = [](const Values& values) {
        std::vector<InputFile> files;
        for (const auto& one : values.of<LessSettings>().checkpoints) files.push_back({"--checkpoint", one.directory});
        return files;
    };
    return {
        checkpoint,
        switch_option({.name = "bias-correction",
                       .group = option_group,
                       .value_name = "on|off",
                       .help = "of the step's moments, as Adam has it; off: neither, and epsilon under the root, as "
                               "LESS's released code"},
                      &LessSettings::bias_correction)};
}

std::string idle_less(const Values& values, const std::string& option) {
    if (option == "optimizer" && !values.of<LessSettings>().checkpoints.empty()) return "checkpoint";
    return idle_gradient(values, option);
}

}  // namespace idistill::influence
