#include "options.hpp"

#include <algorithm>
#include <limits>

#include "idistill/config/embedding_parts.hpp"
#include "option_kinds.hpp"
#include "text.hpp"

namespace idistill::config {
namespace {

using nlohmann::json;

void add_what(std::vector<Option>& all) {
    const std::string group = "What";
    all.push_back(text_option({"model", group, "DIR", "Hugging Face model directory (config.json, *.safetensors)"},
                              &Settings::model));
    all.push_back(pool_option(group));
    all.push_back(target_option(group));
    all.push_back(
        text_option({"result", group, "FILE", "an existing result, to select from again"}, &Settings::result));
    all.back().of_run = false;
    all.back().of_select = true;
    all.push_back(text_option({"out", group, "FILE", "the HDF5 result to write, never half-written under this name"},
                              &Settings::out));
    all.back().of_select = true;
    all.push_back(switch_option({"overwrite", group, "", "replace a finished result"}, &Settings::overwrite));
    all.back().of_select = true;
    for (auto& option : all) option.decides = Decides::nothing;
    all.push_back(choice_option(
        {"columns", group, "KIND", "samples: one influence column per target sample;\ntasks: one per target"},
        &Settings::columns, {"samples", "tasks"}));
}

void add_influence(std::vector<Option>& all) {
    const std::string group = "Influence (exact, of targets and landmarks)";
    all.push_back(
        text_option({"optimizer", group, "FILE",
                     "state of the optimizer that will train, from jobs/warmup.py or jobs/optimizer_state.py: "
                     "influence of its next step; without it, of a plain gradient step"},
                    &Settings::optimizer));
    all.back().decides = Decides::nothing;
    all.push_back(text_option({"parameters", group, "REGEX",
                               "linear layers whose gradients count, by name, e.g. 'layers\\.(2[0-9])\\..*down_proj'"},
                              &Settings::parameters));
    all.push_back(choice_option({"normalize", group, "KIND", "cosine: gradients of unit length; none: raw"},
                                &Settings::normalize, {"cosine", "none"}));
    all.push_back(number_option<std::int64_t>(
        {"contrast", group, "N",
         "random pool samples whose mean gradient is projected out of the targets' gradients:\nwhat any sample would "
         "do then counts for nothing; 0: keep it, as published"},
        &Settings::contrast, 0, std::int64_t{1} << 20));
    all.push_back(
        choice_option({"sketch", group, "KIND", "how gradients are shortened: kronecker, hadamard, rademacher, none"},
                      &Settings::sketch, {"kronecker", "hadamard", "rademacher", "none"}));
    all.push_back(
        number_option<std::int64_t>({"sketch-dim", group, "K", "numbers kept per gradient, all layers together"},
                                    &Settings::sketch_dim, 1, std::int64_t{1} << 28));
}

void add_propagation(std::vector<Option>& all) {
    const std::string group = "Propagation (from landmarks to the pool)";
    all.push_back(choice_option({"propagation", group, "KIND", "kernel-ridge; none: every sample exactly"},
                                &Settings::propagation, {"kernel-ridge", "none"}));
    all.push_back(landmarks_option(group));
    all.push_back(embedding_option(group));
    all.push_back(embedding_of_embed_option(group));
    all.push_back(choice_option(
        {"kernel", group, "KIND",
         "of several embeddings: sum (the mean) or product of each one's own kernel; auto: chosen by leave-one-out"},
        &Settings::kernel, {"auto", "sum", "product"}));
    all.push_back(
        number_option<std::int64_t>({"jvp-blocks", group, "B", "transformer blocks that the embedding runs through"},
                                    &Settings::jvp_blocks, 1, 10000));
    all.push_back(number_option<std::int64_t>({"jvp-tangents", group, "K", "random directions"},
                                              &Settings::jvp_tangents, 1, 1024));
    all.push_back(
        number_option<std::int64_t>({"jvp-rank", group, "R", "rank of the directions; 0: dense, as published, slower"},
                                    &Settings::jvp_rank, 0, 65536));
    all.push_back(number_option<std::int64_t>(
        {"embedding-dim", group, "E", "embeddings longer than this are projected down to it"}, &Settings::embedding_dim,
        1, std::int64_t{1} << 20));
    all.push_back(switch_option({"metadata", group, "on|off", "also use source and lengths of the samples"},
                                &Settings::metadata));
    all.push_back(auto_or_number_option({"damping", group, "auto|X", "ridge; auto: chosen by leave-one-out"},
                                        &Settings::damping));
    all.push_back(bandwidth_option(group));
    all.push_back(refine_option(group));
    all.back().decides = Decides::shortlist;
}

void add_weighted(std::vector<Option>& all, const std::string& group) {
    const std::size_t first = all.size();
    all.push_back(choice_option({"influence", group, "ORDER",
                                 "of weighted: second-order: what samples have in common counts against them, by the "
                                 "curvature of the target loss;\nfirst-order: influence alone decides; auto: "
                                 "second-order, but with --columns tasks or --lambda 0"},
                                &Settings::influence, {"auto", "second-order", "first-order"}));
    all.push_back(choice_option({"curvature", group, "KIND",
                                 "of second-order: fisher: of the targets' gradients, needs --columns samples;\n"
                                 "hessian: the target loss's own, computed in the run"},
                                &Settings::curvature, {"fisher", "hessian"}));
    all.push_back(auto_or_number_option({"learning-rate", group, "auto|X",
                                         "of second-order: step size that the weights are optimal for; auto, by "
                                         "fisher: the shortest after which a longer one gains little"},
                                        &Settings::learning_rate));
    all.push_back(optional_option({"lambda", group, "X",
                                   "of weighted: strength of the squared weights' penalty; the number of samples "
                                   "follows; 0 (first-order): equal weights; without it, what gives --select samples"},
                                  &Settings::lambda, 0.0, 1e300));
    all.push_back(max_weight_option(group));
    all.push_back(source_share_option(group));
    for (std::size_t i = first; i < all.size(); ++i) all[i].decides = Decides::nothing;
    all.back().decides = Decides::shortlist;  // --source-share
}

void add_selection(std::vector<Option>& all) {
    const std::string group = "Selection";
    const std::size_t first = all.size();
    all.push_back(
        choice_option({"selection", group, "RULE",
                       "weighted (optimal weights), round-robin over the columns, top-k, or random (the control);\n"
                       "auto: weighted, but round-robin with --columns tasks, --select-tokens or --source-cap"},
                      &Settings::selection, {"auto", "weighted", "round-robin", "top-k", "random"}));
    all.push_back(choice_option({"top-k-by", group, "KIND", "top-k ranks by the mean or the max over tasks"},
                                &Settings::top_k_by, {"mean", "max"}));
    all.push_back(select_option(group));
    all.push_back(select_tokens_option(group));
    all.push_back(source_cap_option(group));
    for (std::size_t i = first; i < all.size(); ++i) all[i].decides = Decides::shortlist;
    add_weighted(all, group);
    for (std::size_t i = first; i < all.size(); ++i) all[i].of_select = true;
    all.push_back(number_option<std::int64_t>(
        {"rank", group, "R", "of --curvature hessian: directions it is reduced to, each a pass over the targets"},
        &Settings::rank, 1, 1024));
}

void add_run(std::vector<Option>& all) {
    const std::string group = "Run";
    all.push_back(number_option<std::uint64_t>({"seed", group, "N", "of all random numbers"}, &Settings::seed, 0,
                                               std::numeric_limits<std::uint64_t>::max()));
    all.back().of_select = true;
    all.push_back(choice_option({"device", group, "KIND", "auto or cpu (this build has no GPU back end)"},
                                &Settings::device, {"auto", "cpu"},
                                {{"cuda", "This build has no GPU back end: use --device cpu."}}));
    all.push_back(choice_option({"dtype", group, "KIND", "auto or fp32"}, &Settings::dtype, {"auto", "fp32"},
                                {{"bf16", "This build computes in fp32 on CPUs: use --dtype fp32."}}));
    all.push_back(number_option<int>({"threads", group, "N", "threads per rank; more ranks use cores better"},
                                     &Settings::threads, 1, 1024));
    all.push_back(
        number_option<std::int64_t>({"batch-tokens", group, "N", "tokens computed at once; more takes more memory"},
                                    &Settings::batch_tokens, 1, std::int64_t{1} << 24));
    all.push_back(number_option<double>(
        {"unit-flops", group, "F", "planned cost of a work unit: what a crash loses per rank, what ranks share out"},
        &Settings::unit_flops, 1.0, 1e18));
    all.push_back(number_option<double>(
        {"stall-timeout", group, "S", "seconds without any rank computing while one waits before the job ends"},
        &Settings::stall_timeout_seconds, 1.0, 1e6));
    all.back().decides = Decides::nothing;
    all.back().of_select = true;
}

}  // namespace

std::string shown(const json& value) {
    if (value.is_string()) return value.get<std::string>();
    if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
    if (value.is_number_float()) return shortest(value.get<double>());
    if (!value.is_array()) return value.dump();
    std::string text;
    for (const auto& entry : value) text += (text.empty() ? "" : ", ") + shown(entry);
    return text;
}

const std::vector<Option>& options() {
    static const std::vector<Option> all = [] {
        std::vector<Option> made_here;
        add_what(made_here);
        add_influence(made_here);
        add_propagation(made_here);
        add_selection(made_here);
        add_run(made_here);
        for (const char* name :
             {"model", "pool", "out", "overwrite", "parameters", "jvp-blocks", "jvp-tangents", "jvp-rank",
              "embedding-dim", "seed", "device", "dtype", "threads", "batch-tokens", "unit-flops", "stall-timeout"})
            std::find_if(made_here.begin(), made_here.end(), [name](const Option& option) {
                return option.name == name;
            })->of_embed = true;
        return made_here;
    }();
    return all;
}

namespace {

bool wants_second_order(const Settings& settings) { return settings.learning_rate || settings.curvature == "hessian"; }

}  // namespace

std::string against_weights(const Settings& settings) {
    const bool wanted = settings.influence != "auto" || wants_second_order(settings) || settings.lambda ||
                        settings.max_weight || !settings.source_share.empty();
    if (settings.select_tokens) return "select-tokens";
    if (!settings.source_cap.empty()) return "source-cap";
    return settings.columns == "samples" || wanted ? "" : "columns";
}

std::string against_second_order(const Settings& settings) {
    if (settings.lambda == 0.0) return "lambda";
    return settings.columns == "samples" || wants_second_order(settings) ? "" : "columns";
}

namespace {

/// Why weights, or second order, are not: the option that says so, or that which `auto` goes by.
Idle excluded(const Settings& settings, const std::string& option, const std::string& given, const std::string& by) {
    const auto& name = given == "auto" && !by.empty() ? by : option;
    const auto own = std::find_if(options().begin(), options().end(), [&](const Option& o) { return o.name == name; });
    return {name, shown(own->show(settings))};
}

Idle idle_of_weighted(const Settings& settings, const Settings& given, const std::string& option) {
    const auto no_weights = excluded(settings, "selection", given.selection, against_weights(given));
    const auto no_second_order = excluded(settings, "influence", given.influence, against_second_order(given));
    const bool second_order = settings.influence == "second-order";
    if (settings.selection != "weighted") {
        if (option == "influence" || option == "lambda" || option == "max-weight" || option == "source-share")
            return no_weights;
    } else {
        if (option == "select-tokens" || option == "source-cap") return {"selection", "weighted"};
        const bool of_budget = option == "select" || option == "refine";
        if (of_budget && leaves_number_open(settings)) return {"lambda", shortest(*settings.lambda)};
    }
    const bool of_second_order = option == "curvature" || option == "learning-rate" || option == "rank";
    if (of_second_order && settings.selection != "weighted") return no_weights;
    if (of_second_order && !second_order) return no_second_order;
    if (option == "rank" && settings.curvature != "hessian") return {"curvature", settings.curvature};
    return {};
}

}  // namespace

Idle idle(const Settings& given, const std::string& option) {
    const auto settings = resolved(given);
    const auto one_of = [&option](std::initializer_list<const char*> names) {
        for (const char* name : names) {
            if (option == name) return true;
        }
        return false;
    };
    const bool exact = settings.command != Command::select && settings.propagation == "none";
    if (exact && one_of({"landmarks", "embedding", "kernel", "jvp-blocks", "jvp-tangents", "jvp-rank", "embedding-dim",
                         "metadata", "damping", "bandwidth", "refine"})) {
        return {"propagation", "none"};
    }
    if (exact && settings.columns == "tasks" && one_of({"sketch", "sketch-dim"})) return {"columns", "tasks"};
    if (settings.sketch == "none" && option == "sketch-dim") return {"sketch", "none"};
    const bool jvp = embeds(settings, EmbeddingKind::jvp);
    if ((!jvp && one_of({"jvp-tangents", "jvp-rank"})) ||
        (!jvp && !embeds(settings, EmbeddingKind::hidden) && option == "jvp-blocks") ||
        (embedding_parts(settings).size() == 1 && option == "kernel") ||
        (settings.command == Command::embed && option == "parameters" && !embeds(settings, EmbeddingKind::gradient) &&
         !embeds(settings, EmbeddingKind::gradient_tail)))
        return {"embedding", settings.embedding};
    if (settings.selection == "random" && option == "refine") return {"selection", "random"};
    if (settings.selection != "top-k" && option == "top-k-by") return {"selection", settings.selection};
    return idle_of_weighted(settings, given, option);
}

}  // namespace idistill::config
