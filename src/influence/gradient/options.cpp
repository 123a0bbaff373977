#include "idistill/influence/gradient/options.hpp"

#include <cmath>

#include "idistill/influence/gradient/settings.hpp"
#include "idistill/influence/members.hpp"
#include "idistill/options/option_kinds.hpp"

namespace idistill::influence {

using namespace options;

constexpr auto group = option_group;

namespace {

Option sketch_dim_option() {
    constexpr double most = std::int64_t{1} << 28;
    auto option = word_or_number_option<GradientSettings>(
        {.name = "sketch-dim",
         .group = group,
         .value_name = "auto|K",
         .help = "numbers kept per gradient, all layers together; auto: 98304, with an optimizer 655360, with "
                 "less 1310720 over all checkpoints",
         .words = {{"auto", "auto"}, {"1000", "K"}}},
        {"auto"},
        {"a whole number from 1 to 268435456",
         [](double value) { return value >= 1.0 && value <= most && value == std::floor(value); }},
        [](GradientSettings& settings, const WordOrNumber& value) {
            settings.sketch_dim.reset();
            if (value.number) settings.sketch_dim = static_cast<std::int64_t>(*value.number);
        },
        [](const GradientSettings& s) {
            return s.sketch_dim ? nlohmann::json(*s.sketch_dim) : nlohmann::json("auto");
        });
    option.identity = [](const Values& values) {
        return nlohmann::json(values.of<GradientSettings>().sketch_numbers());
    };
    return option;
}

}  // namespace

std::vector<Option> gradient_options() {
    return {
        text_option({.name = "optimizer",
                     .group = group,
                     .value_name = "FILE",
                     .help = "state of the optimizer that will train, from jobs/warmup.py or jobs/optimizer_state.py: "
                             "influence of its next step; without it, of a plain gradient step",
                     .decides = Decides::nothing,
                     .reads = names_file("optimizer", &GradientSettings::optimizer)},
                    &GradientSettings::optimizer),
        text_option({.name = "parameters",
                     .group = group,
                     .value_name = "REGEX",
                     .help = "linear layers whose gradients count, by name, e.g. 'layers\\.(2[0-9])\\..*down_proj'",
                     .of_embed = true},
                    &GradientSettings::parameters),
        choice_option({.name = "normalize",
                       .group = group,
                       .value_name = "KIND",
                       .help = "cosine: gradients of unit length; none: raw"},
                      &GradientSettings::normalize, {{"cosine", Normalize::cosine}, {"none", Normalize::none}}),
        number_option({.name = "contrast",
                       .group = group,
                       .value_name = "N",
                       .help = "random pool samples whose mean gradient is projected out of the targets' gradients:\n"
                               "what any sample would do then counts for nothing; 0: keep it, as published"},
                      &GradientSettings::contrast, 0, std::int64_t{1} << 20),
        choice_option(
            {.name = "sketch",
             .group = group,
             .value_name = "KIND",
             .help = "how gradients are shortened: tensor; kronecker, hadamard, rademacher (published ones); none"},
            &GradientSettings::sketch,
            {{"tensor", SketchKind::tensor},
             {"kronecker", SketchKind::kronecker},
             {"hadamard", SketchKind::hadamard},
             {"rademacher", SketchKind::rademacher},
             {"none", SketchKind::none}}),
        sketch_dim_option(),
        number_option({.name = "curvature-rank",
                       .group = group,
                       .value_name = "R",
                       .help = "of --curvature hessian: directions it is reduced to, each a pass over the targets",
                       .old_spellings = {{"rank", {}}}},
                      &GradientSettings::curvature_rank, 1, 1024)};
}

std::string idle_gradient(const Values& values, const std::string& option) {
    return option == "sketch-dim" && values.of<GradientSettings>().sketch == SketchKind::none ? "sketch" : "";
}

}  // namespace idistill::influence
