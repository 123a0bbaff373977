#pragma once
// Every option of a run, as it is given and what becomes of it.

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "config_support.hpp"
#include "idistill/config/settings.hpp"

namespace config_test {

using nlohmann::json;

/// One option of a run: words of the command line, line of a settings file, what is then recorded, and what the member
/// must be.
struct Case {
    std::string name;
    Words words;
    std::string toml;
    json recorded;
    std::function<bool(const Settings&)> holds;
    Words also;  ///< other options that it needs
};

/// An option whose word, line and record are one value, that of the member.
template <class Member, class Value>
Case same(const std::string& name, Member Settings::*member, const Value& value, const Words& also = {}) {
    const json recorded = value;
    const auto word = recorded.is_string() ? recorded.get<std::string>() : recorded.dump();
    return {name,
            {"--" + name, word},
            name + " = " + recorded.dump(),
            recorded,
            [member, value](const Settings& s) { return s.*member == value; },
            also};
}

inline const std::vector<Case>& cases() {
    using namespace std::string_literals;
    static const std::vector<Case> all{
        same("model", &Settings::model, "x y"s),
        {"pool",
         {"--pool", "a", "b", "--pool", "c#d"},
         "pool = ['a', \"b\",\n  # comment\n  'c#d',\n]",
         {"a", "b", "c#d"},
         [](const Settings& s) {
             return s.pool == Words{"a", "b", "c#d"};
         },
         {}},
        {"target",
         {"--target", "n=f=g", "--target", "o=h"},
         "target = [\"n=f=g\", \"o=h\"]",
         {"n=f=g", "o=h"},
         [](const Settings& s) {
             return s.targets.size() == 2 && s.targets[0].name == "n" && s.targets[0].path == "f=g" &&
                    s.targets[1].name == "o";
         },
         {}},
        {"out", {"--out=r.h5"}, "out = \"r.h5\"", "r.h5", [](const Settings& s) { return s.out == "r.h5"; }, {}},
        {"overwrite", {"--overwrite"}, "overwrite = true", true, [](const Settings& s) { return s.overwrite; }, {}},
        {"columns",
         {"--columns", "tasks"},
         "columns = 'tasks'",
         "tasks",
         [](const Settings& s) { return s.columns == "tasks"; },
         {}},
        same("optimizer", &Settings::optimizer, "state.safetensors"s),
        {"parameters",
         {"--parameters", "layers\\.[0-3]\\."},
         "parameters = 'layers\\.[0-3]\\.'",
         "layers\\.[0-3]\\.",
         [](const Settings& s) { return s.parameters == "layers\\.[0-3]\\."; },
         {}},
        same("normalize", &Settings::normalize, "none"s),
        same("sketch", &Settings::sketch, "hadamard"s),
        same("contrast", &Settings::contrast, 0),
        same("sketch-dim", &Settings::sketch_dim, 77),
        same("propagation", &Settings::propagation, "none"s),
        {"landmarks",
         {"--landmarks", "1024"},
         "landmarks = 1_024  # many",
         1024,
         [](const Settings& s) { return s.landmarks == 1024 && !s.landmarks_auto; },
         {}},
        {"landmarks",
         {"--landmarks", "auto"},
         "landmarks = \"auto\"",
         "auto:8192",
         [](const Settings& s) { return !s.landmarks && s.landmarks_auto; },
         {}},
        {"landmarks",
         {"--landmarks", "auto:600"},
         "landmarks = \"auto:600\"",
         "auto:600",
         [](const Settings& s) { return s.landmarks == 600 && s.landmarks_auto; },
         {}},
        same("embedding", &Settings::embedding, "hidden"s),
        same("embedding", &Settings::embedding, "jvp+gradient-tail:12"s),
        same("kernel", &Settings::kernel, "product"s, {"--embedding", "jvp+hidden"}),
        {"jvp-blocks",
         {"--jvp-blocks", "3"},
         "jvp-blocks=3",
         3,
         [](const Settings& s) { return s.jvp_blocks == 3; },
         {}},
        {"jvp-tangents",
         {"--jvp-tangents", "5"},
         "jvp-tangents = +5",
         5,
         [](const Settings& s) { return s.jvp_tangents == 5; },
         {}},
        same("jvp-rank", &Settings::jvp_rank, 0),
        same("embedding-dim", &Settings::embedding_dim, 9),
        {"metadata",
         {"--metadata", "off"},
         "metadata = false",
         "off",
         [](const Settings& s) { return !s.metadata; },
         {}},
        same("damping", &Settings::damping, 0.25),
        {"bandwidth",
         {"--bandwidth", "1e3"},
         "bandwidth = 1e3",
         1000.0,
         [](const Settings& s) { return s.bandwidth == 1000.0; },
         {}},
        same("refine", &Settings::refine, 2.5),
        same("selection", &Settings::selection, "top-k"s),
        same("top-k-by", &Settings::top_k_by, "max"s, {"--selection", "top-k"}),
        {"select",
         {"--select", "12"},
         "select = 12",
         12,
         [](const Settings& s) { return s.select_samples == 12 && !s.select_percent && !s.select_tokens; },
         {}},
        {"select-tokens",
         {"--select-tokens", "500"},
         "select-tokens = 500",
         500,
         [](const Settings& s) { return s.select_tokens == 500 && !s.select_percent && !s.select_samples; },
         {}},
        {"source-cap",
         {"--source-cap", "b=0", "--source-cap", "a=3"},
         "source-cap = [\"b=0\", \"a=3\"]",
         {"a=3", "b=0"},
         [](const Settings& s) {
             return s.source_cap == std::map<std::string, std::int64_t>{{"a", 3}, {"b", 0}};
         },
         {}},
        {"max-weight",
         {"--max-weight", "2.5x"},
         "max-weight = \"2.5x\"",
         "2.5x",
         [](const Settings& s) { return s.max_weight == 2.5 && s.max_weight_of_mean; },
         {"--selection", "weighted"}},
        {"source-share",
         {"--source-share", "b=0.5", "--source-share", "a=1"},
         "source-share = [\"b=0.5\", \"a=1\"]",
         {"a=1", "b=0.5"},
         [](const Settings& s) {
             return s.source_share == std::map<std::string, double>{{"a", 1.0}, {"b", 0.5}};
         },
         {"--selection", "weighted"}},
        same("influence", &Settings::influence, "first-order"s, {"--selection", "weighted"}),
        same("curvature", &Settings::curvature, "hessian"s,
             {"--selection", "weighted", "--influence", "second-order", "--learning-rate", "1e-4"}),
        same("rank", &Settings::rank, 5,
             {"--selection", "weighted", "--influence", "second-order", "--learning-rate", "1e-4", "--curvature",
              "hessian"}),
        same("learning-rate", &Settings::learning_rate, 2e-5,
             {"--selection", "weighted", "--influence", "second-order"}),
        same("lambda", &Settings::lambda, 0.25, {"--selection", "weighted"}),
        same("seed", &Settings::seed, 18446744073709551615ULL),
        same("device", &Settings::device, "cpu"s),
        same("dtype", &Settings::dtype, "fp32"s),
        same("threads", &Settings::threads, 4),
        same("batch-tokens", &Settings::batch_tokens, 100),
        {"unit-flops",
         {"--unit-flops", "2e9"},
         "unit-flops = 2e9",
         2e9,
         [](const Settings& s) { return s.unit_flops == 2e9; },
         {}},
        same("stall-timeout", &Settings::stall_timeout_seconds, 1.5),
    };
    return all;
}

}  // namespace config_test
