#pragma once
// Every option of a run, as it is given and what becomes of it.

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "options_support.hpp"

namespace options_test {

using nlohmann::json;

/// One option of a run: words of the command line, line of a settings file, what is then recorded, and what the member
/// must be.
struct Case {
    std::string name;
    Words words;
    std::string toml;
    json recorded;
    std::function<bool(const Values&)> holds;
    Words also;  ///< other options that it needs
};

/// The words and line of a value as it is recorded.
inline Case recorded(const std::string& name, const json& value, std::function<bool(const Values&)> holds,
                     const Words& also = {}) {
    const auto word = value.is_string() ? value.get<std::string>() : value.dump();
    return {name, {"--" + name, word}, name + " = " + value.dump(), value, std::move(holds), also};
}

/// An option whose word, line and record are one value, that of the member.
template <class Settings, class Member, class Value>
Case same(const std::string& name, Member Settings::*member, const Value& value, const Words& also = {}) {
    return recorded(
        name, value, [member, value](const Values& v) { return v.of<Settings>().*member == value; }, also);
}

/// An option of words, where the member is an enum.
template <class Settings, class Enum>
Case word(const std::string& name, Enum Settings::*member, const std::string& text, Enum value,
          const Words& also = {}) {
    return recorded(
        name, text, [member, value](const Values& v) { return v.of<Settings>().*member == value; }, also);
}

/// An option whose settings are its member's own.
inline std::function<bool(const Values&)> shows(const std::string& name, const json& value) {
    return [name, value](const Values& v) { return program_options().find(name, v.command)->show(v) == value; };
}

inline const std::vector<Case>& cases() {
    using namespace std::string_literals;
    const Words weighted{"--selection", "weighted"}, subset{"--selection", "facility-location"},
        network{"--propagation", "network"};
    const Words conditional{"--selection", "facility-location-cg", "--held", "ids.txt"};
    const auto second = with(weighted, {"--order", "second-order", "--learning-rate", "1e-4"});
    static const std::vector<Case> all{
        same("model", &InputSettings::model, "x y"s),
        {"pool",
         {"--pool", "a", "b", "--pool", "c#d"},
         "pool = ['a', \"b\",\n  # comment\n  'c#d',\n]",
         {"a", "b", "c#d"},
         [](const Values& v) {
             return v.of<InputSettings>().pool == Words{"a", "b", "c#d"};
         },
         {}},
        {"target",
         {"--target", "n=f=g", "--target", "o=h"},
         "target = [\"n=f=g\", \"o=h\"]",
         {"n=f=g", "o=h"},
         [](const Values& v) {
             const auto& targets = v.of<InputSettings>().targets;
             return targets.size() == 2 && targets[0].name == "n" && targets[0].path == "f=g" && targets[1].name == "o";
         },
         {}},
        {"out",
         {"--out=r.h5"},
         "out = \"r.h5\"",
         "r.h5",
         [](const Values& v) { return v.of<InputSettings>().out == "r.h5"; },
         {}},
        {"overwrite",
         {"--overwrite"},
         "overwrite = true",
         true,
         [](const Values& v) { return v.of<InputSettings>().overwrite; },
         {}},
        {"drop-overlap",
         {"--drop-overlap"},
         "drop-overlap = true",
         true,
         [](const Values& v) { return v.of<InputSettings>().drop_overlap; },
         {}},
        word("columns", &InputSettings::columns, "tasks", options::ColumnKind::tasks),
        same("influence", &InfluenceSettings::member, "gradient"s),
        same("optimizer", &GradientSettings::optimizer, "state.safetensors"s),
        {"parameters",
         {"--parameters", "layers\\.[0-3]\\."},
         "parameters = 'layers\\.[0-3]\\.'",
         "layers\\.[0-3]\\.",
         [](const Values& v) { return v.of<GradientSettings>().parameters == "layers\\.[0-3]\\."; },
         {}},
        word("normalize", &GradientSettings::normalize, "none", influence::Normalize::none),
        word("sketch", &GradientSettings::sketch, "hadamard", influence::SketchKind::hadamard),
        word("sketch", &GradientSettings::sketch, "rademacher", influence::SketchKind::rademacher),
        word("sketch", &GradientSettings::sketch, "none", influence::SketchKind::none),
        same("contrast", &GradientSettings::contrast, 0),
        same("sketch-dim", &GradientSettings::sketch_dim, 77),
        recorded("sentence-embedding", "s.h5", shows("sentence-embedding", "s.h5"), {"--influence", "delift-se"}),
        recorded("max-context", 512, shows("max-context", 512), {"--influence", "delift"}),
        {"checkpoint",
         {"--checkpoint", "a:0.5", "--checkpoint", "b:1e-5"},
         "checkpoint = ['a:0.5', 'b:1e-5']",
         {"a:0.5", "b:1e-05"},
         shows("checkpoint", {"a:0.5", "b:1e-05"}),
         {"--influence", "less"}},
        recorded("bias-correction", "off", shows("bias-correction", "off"), {"--influence", "less"}),
        recorded("ratings", "r.h5", shows("ratings", "r.h5"), {"--influence", "selectit"}),
        {"rater",
         {"--ratings", "r.h5", "--rater", "a=s.h5"},
         "ratings = 'r.h5'\nrater = ['a=s.h5']",
         {"a=s.h5"},
         shows("rater", json::array({"a=s.h5"})),
         {"--influence", "selectit"}},
        same("propagation", &PropagationSettings::member, "none"s),
        {"landmarks",
         {"--landmarks", "1024"},
         "landmarks = 1_024  # many",
         1024,
         [](const Values& v) {
             const auto& s = v.of<PropagationSettings>();
             return s.landmarks == 1024 && !s.landmarks_auto;
         },
         {}},
        recorded("landmarks", "auto:600",
                 [](const Values& v) {
                     const auto& s = v.of<PropagationSettings>();
                     return s.landmarks == 600 && s.landmarks_auto;
                 }),
        {"landmarks",
         {"--landmarks", "auto"},
         "landmarks = \"auto\"",
         "auto:8192",
         [](const Values& v) {
             const auto& s = v.of<PropagationSettings>();
             return !s.landmarks && s.landmarks_auto;
         },
         {}},
        recorded("landmarks", "2.5%",
                 [](const Values& v) {
                     const auto& s = v.of<PropagationSettings>();
                     return s.landmarks_percent == 2.5 && !s.landmarks && !s.landmarks_auto;
                 }),
        recorded("labelled", "5%",
                 [](const Values& v) {
                     const auto& s = v.of<PropagationSettings>();
                     return s.landmarks_percent == 5.0 && !s.landmarks && !s.landmarks_auto;
                 }),
        same("pairs", &NetworkSettings::pairs, 5000, network),
        same("network-width", &NetworkSettings::width, 64, network),
        same("network-depth", &NetworkSettings::depth, 2, network),
        same("network-epochs", &NetworkSettings::epochs, 7, network),
        {"network-symmetric",
         {"--network-symmetric", "on"},
         "network-symmetric = true",
         "on",
         [](const Values& v) { return v.of<NetworkSettings>().symmetric; },
         network},
        {"network-residual",
         {"--network-residual", "on"},
         "network-residual = true",
         "on",
         [](const Values& v) { return v.of<NetworkSettings>().residual; },
         network},
        {"network-standardise",
         {"--network-standardise", "off"},
         "network-standardise = false",
         "off",
         [](const Values& v) { return !v.of<NetworkSettings>().standardise; },
         network},
        same("embedding", &EmbeddingSettings::embedding, "hidden"s),
        same("embedding", &EmbeddingSettings::embedding, "jvp+gradient-tail:12"s),
        word("kernel", &KernelRidgeSettings::kernel, "product", propagation::KernelChoice::product,
             {"--embedding", "jvp+hidden"}),
        word("kernel", &KernelRidgeSettings::kernel, "sum", propagation::KernelChoice::sum,
             {"--embedding", "jvp+hidden"}),
        {"jvp-blocks",
         {"--jvp-blocks", "3"},
         "jvp-blocks=3",
         3,
         [](const Values& v) { return v.of<EmbeddingSettings>().jvp_blocks == 3; },
         {}},
        {"jvp-tangents",
         {"--jvp-tangents", "5"},
         "jvp-tangents = +5",
         5,
         [](const Values& v) { return v.of<JvpSettings>().tangents == 5; },
         {}},
        same("jvp-rank", &JvpSettings::direction_rank, 0),
        same("embedding-dim", &EmbeddingSettings::embedding_dim, 9),
        {"metadata",
         {"--metadata", "off"},
         "metadata = false",
         "off",
         [](const Values& v) { return !v.of<KernelRidgeSettings>().metadata; },
         {}},
        same("damping", &KernelRidgeSettings::damping, 0.25),
        {"bandwidth",
         {"--bandwidth", "1e3"},
         "bandwidth = 1e3",
         1000.0,
         [](const Values& v) { return v.of<KernelRidgeSettings>().bandwidth == 1000.0; },
         {}},
        same("refine", &PropagationSettings::refine, 2.5),
        same("selection", &SelectionSettings::member, "top-k"s),
        word("top-k-by", &TopKSettings::by, "max", selection::TopKBy::max, {"--selection", "top-k"}),
        recorded("select", 12,
                 [](const Values& v) {
                     const auto& s = v.of<BudgetSettings>();
                     return s.samples == 12 && !s.percent && !s.tokens;
                 }),
        recorded("select-tokens", 500,
                 [](const Values& v) {
                     const auto& s = v.of<BudgetSettings>();
                     return s.tokens == 500 && !s.percent && !s.samples;
                 }),
        {"source-cap",
         {"--source-cap", "b=0", "--source-cap", "a=3"},
         "source-cap = [\"b=0\", \"a=3\"]",
         {"a=3", "b=0"},
         [](const Values& v) {
             return v.of<BudgetSettings>().source_cap == std::map<std::string, std::int64_t>{{"a", 3}, {"b", 0}};
         },
         {}},
        word("similarity", &FacilityLocationSettings::similarity, "influence", selection::SimilarityKind::influence,
             subset),
        word("greedy", &FacilityLocationSettings::greedy, "stochastic", selection::Greedy::stochastic, subset),
        same("neighbours", &FacilityLocationSettings::neighbours, 16, subset),
        same("memory", &FacilityLocationSettings::memory_gb, 2.5, subset),
        same("eta", &FacilityLocationSettings::target_weight, 0.5, {"--selection", "facility-location-mi"}),
        same("nu", &FacilityLocationSettings::held_weight, 0.5, conditional),
        same("held", &FacilityLocationSettings::held, "other.txt"s, {"--selection", "facility-location-cg"}),
        word("order", &WeightedSettings::order, "first-order", selection::Order::first, weighted),
        word("curvature", &WeightedSettings::curvature, "hessian", selection::Curvature::hessian, second),
        same("learning-rate", &WeightedSettings::learning_rate, 2e-5, with(weighted, {"--order", "second-order"})),
        same("lambda", &WeightedSettings::lambda, 0.25, weighted),
        recorded(
            "max-weight", "2.5x",
            [](const Values& v) {
                const auto& s = v.of<WeightedSettings>();
                return s.max_weight == 2.5 && s.max_weight_of_mean;
            },
            weighted),
        {"source-share",
         {"--source-share", "b=0.5", "--source-share", "a=1"},
         "source-share = [\"b=0.5\", \"a=1\"]",
         {"a=1", "b=0.5"},
         [](const Values& v) {
             return v.of<WeightedSettings>().source_share == std::map<std::string, double>{{"a", 1.0}, {"b", 0.5}};
         },
         weighted},
        same("curvature-rank", &GradientSettings::curvature_rank, 5, with(second, {"--curvature", "hessian"})),
        same("seed", &RunSettings::seed, 18446744073709551615ULL),
        word("device", &RunSettings::device, "cpu", options::DeviceKind::cpu),
        word("dtype", &RunSettings::dtype, "fp32", options::DtypeKind::fp32),
        same("threads", &RunSettings::threads, 4),
        same("batch-tokens", &RunSettings::batch_tokens, 100),
        {"unit-flops",
         {"--unit-flops", "2e9"},
         "unit-flops = 2e9",
         2e9,
         [](const Values& v) { return v.of<RunSettings>().unit_flops == 2e9; },
         {}},
        same("stall-timeout", &RunSettings::stall_timeout_seconds, 1.5),
    };
    return all;
}

}  // namespace options_test
