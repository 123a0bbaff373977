#include "options.hpp"

#include <cmath>
#include <limits>

#include "text.hpp"

namespace idistill::config {
namespace {

using nlohmann::json;

std::string listed(const std::vector<std::string>& names) {
    std::string text;
    for (std::size_t i = 0; i < names.size(); ++i)
        text += (i == 0 ? "" : i + 1 == names.size() ? " or " : ", ") + names[i];
    return text;
}

struct Meta {
    std::string name, group, value_name, help;
};

Option made(const Meta& meta) {
    Option option;
    option.name = meta.name;
    option.group = meta.group;
    option.value_name = meta.value_name;
    option.help = meta.help;
    return option;
}

Option text_option(const Meta& meta, std::string Settings::*member) {
    Option option = made(meta);
    option.apply = [member](Settings& settings, const Given& given) {
        if (single(given).empty()) refuse(given, "a value", "nothing", "Leave the option out or give it a value.");
        settings.*member = given.values.front();
    };
    option.show = [member](const Settings& s) { return (s.*member).empty() ? json() : json(s.*member); };
    return option;
}

template <class T>
Option number_option(const Meta& meta, T Settings::*member, T low, T high) {
    Option option = made(meta);
    option.apply = [member, low, high](Settings& settings, const Given& given) {
        settings.*member = number_within<T>(given, single(given), low, high);
    };
    option.show = [member](const Settings& s) { return json(s.*member); };
    return option;
}

/// `remedies`: what to say about a value that other builds or versions know.
Option choice_option(const Meta& meta, std::string Settings::*member, const std::vector<std::string>& choices,
                     const std::map<std::string, std::string>& remedies = {}) {
    Option option = made(meta);
    option.apply = [=](Settings& settings, const Given& given) {
        const std::string& value = single(given);
        for (const auto& choice : choices) {
            if (choice == value) {
                settings.*member = value;
                return;
            }
        }
        const auto known = remedies.find(value);
        const std::string near = nearest(value, choices);
        refuse(given, listed(choices), in_quotes(value),
               known != remedies.end() ? known->second
               : near.empty()          ? "Give " + given.field + " one of these."
                                       : "Did you mean " + near + "?");
    };
    option.show = [member](const Settings& s) { return json(s.*member); };
    return option;
}

/// on | off; in a settings file also true | false.
Option switch_option(const Meta& meta, bool Settings::*member) {
    Option option = made(meta);
    option.apply = [member](Settings& settings, const Given& given) {
        const std::string& value = single(given);
        const bool on = value == "on" || value == "true";
        if (!on && value != "off" && value != "false") {
            refuse(given, "on or off", in_quotes(value), "Give " + given.field + " one of these.");
        }
        settings.*member = on;
    };
    option.show = [member, flag = meta.value_name.empty()](const Settings& s) {
        return flag ? json(s.*member) : json(s.*member ? "on" : "off");
    };
    return option;
}

/// A positive number, or the word that leaves it to the program.
Option automatic_option(const Meta& meta, std::optional<double> Settings::*member, const std::string& word) {
    Option option = made(meta);
    option.apply = [member, word](Settings& settings, const Given& given) {
        if (single(given) == word) {
            (settings.*member).reset();
            return;
        }
        const auto value = whole<double>(given.values.front());
        if (!value || !(*value > 0.0) || !std::isfinite(*value)) {
            refuse(given, word + " or a number above 0", in_quotes(given.values.front()),
                   "Give " + given.field + " one of these.");
        }
        settings.*member = *value;
    };
    option.show = [member, word](const Settings& s) { return s.*member ? json(*(s.*member)) : json(word); };
    return option;
}

/// A number that has no default.
Option optional_option(const Meta& meta, std::optional<double> Settings::*member, double low, double high) {
    Option option = made(meta);
    option.apply = [member, low, high](Settings& settings, const Given& given) {
        settings.*member = number_within<double>(given, single(given), low, high);
    };
    option.show = [member](const Settings& s) { return s.*member ? json(*(s.*member)) : json(); };
    return option;
}

Option pool_option(const std::string& group) {
    Option option =
        made({"pool", group, "FILE", "token files of the pool, from jobs/prepare.py; several are read as one"});
    option.list = true;
    option.apply = [](Settings& settings, const Given& given) {
        for (std::size_t i = 0; i < given.values.size(); ++i) {
            if (given.values[i].empty()) refuse(given, "a file", "nothing", "Leave the empty value out.");
            for (std::size_t j = 0; j < i; ++j) {
                if (given.values[i] == given.values[j]) {
                    refuse(given, "every file once", in_quotes(given.values[i]) + " twice", "Give it once.");
                }
            }
        }
        settings.pool = given.values;
    };
    option.show = [](const Settings& s) { return s.pool.empty() ? json() : json(s.pool); };
    return option;
}

Option target_option(const std::string& group) {
    Option option =
        made({"target", group, "NAME=FILE", "a task to select for: its name and the token file of its examples"});
    option.list = true;
    option.apply = [](Settings& settings, const Given& given) {
        settings.targets.clear();
        for (const auto& text : given.values) {
            auto [name, path] = named(given, text, "NAME=FILE");
            for (const auto& other : settings.targets) {
                if (other.name == name) {
                    refuse(given, "every task name once", in_quotes(name) + " twice", "Rename one of the two targets.");
                }
            }
            settings.targets.push_back({name, path});
        }
    };
    option.show = [](const Settings& s) {
        json list = json::array();
        for (const auto& target : s.targets) list.push_back(target.name + "=" + target.path);
        return list.empty() ? json() : list;
    };
    return option;
}

Option landmarks_option(const std::string& group) {
    Option option = made({"landmarks", group, "L",
                          "samples of the pool with exact influence; the default is lowered to what the pool has"});
    option.apply = [](Settings& settings, const Given& given) {
        settings.landmarks = number_within<std::int64_t>(given, single(given), 1, std::int64_t{1} << 20);
    };
    option.show = [](const Settings& s) { return json(s.landmarks.value_or(default_landmarks)); };
    return option;
}

Option bandwidth_option(const std::string& group) {
    Option option = made({"bandwidth", group, "median|auto|X",
                          "width of the kernel in embedding distance; auto: of 1/4, 1/2, 1, 2 and 4 times the median "
                          "distance, chosen by leave-one-out with the damping"});
    option.apply = [](Settings& settings, const Given& given) {
        const std::string& text = single(given);
        settings.bandwidth_auto = text == "auto";
        settings.bandwidth.reset();
        if (text == "median" || text == "auto") return;
        const auto value = whole<double>(text);
        if (!value || !(*value > 0.0) || !std::isfinite(*value)) {
            refuse(given, "median, auto or a number above 0", in_quotes(text),
                   "Give " + given.field + " one of these.");
        }
        settings.bandwidth = *value;
    };
    option.show = [](const Settings& s) {
        return s.bandwidth ? json(*s.bandwidth) : json(s.bandwidth_auto ? "auto" : "median");
    };
    return option;
}

Option refine_option(const std::string& group) {
    Option option = made({"refine", group, "X|auto",
                          "exact influence, before selecting, of the X times as many samples as the budget that are "
                          "predicted best; auto: X for 95% of the gain, by leave-one-out; 0: of none"});
    option.apply = [](Settings& settings, const Given& given) {
        const std::string& text = single(given);
        settings.refine.reset();
        if (text == "auto") return;
        const auto value = whole<double>(text);
        if (!value || !(*value == 0.0 || (*value >= 1.0 && *value <= 1e6))) {
            refuse(given, "auto, 0, or a factor from 1 to 1e6", in_quotes(text), "For example --refine 4.");
        }
        settings.refine = *value;
    };
    option.show = [](const Settings& s) { return s.refine ? json(*s.refine) : json("auto"); };
    return option;
}

constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();

Option select_option(const std::string& group) {
    Option option = made(
        {"select", group, "N|P%", "how many samples to select: a count, or a percentage of the pool (at least 1)"});
    option.apply = [](Settings& settings, const Given& given) {
        const std::string& text = single(given);
        settings.select_samples.reset();
        settings.select_percent.reset();
        if (!text.empty() && text.back() == '%') {
            const auto percent = whole<double>(text.substr(0, text.size() - 1));
            if (!percent || !(*percent > 0.0 && *percent <= 100.0)) {
                refuse(given, "a percentage above 0% and up to 100%", in_quotes(text), "For example --select 5%.");
            }
            settings.select_percent = *percent;
            return;
        }
        const auto count = whole<std::int64_t>(text);
        if (!count || *count < 1) {
            refuse(given, "a count of at least 1, or a percentage", in_quotes(text),
                   "For example --select 10000 or --select 5%.");
        }
        settings.select_samples = *count;
    };
    option.show = [](const Settings& s) {
        if (s.select_percent) return json(shortest(*s.select_percent) + "%");
        return s.select_samples ? json(*s.select_samples) : json();
    };
    return option;
}

Option select_tokens_option(const std::string& group) {
    Option option =
        made({"select-tokens", group, "N", "budget in tokens instead: stop before the first sample that exceeds it"});
    option.apply = [](Settings& settings, const Given& given) {
        settings.select_tokens = number_within<std::int64_t>(given, single(given), 1, most);
    };
    option.show = [](const Settings& s) { return s.select_tokens ? json(*s.select_tokens) : json(); };
    return option;
}

Option source_cap_option(const std::string& group) {
    Option option = made({"source-cap", group, "NAME=N", "at most N samples of this source; may be repeated"});
    option.list = true;
    option.apply = [](Settings& settings, const Given& given) {
        settings.source_cap.clear();
        for (const auto& text : given.values) {
            const auto [name, count] = named(given, text, "NAME=N");
            if (settings.source_cap.contains(name)) {
                refuse(given, "every source once", in_quotes(name) + " twice", "Keep one of the two caps.");
            }
            settings.source_cap[name] = number_within<std::int64_t>(given, count, 0, most);
        }
    };
    option.show = [](const Settings& s) {
        json list = json::array();
        for (const auto& [name, count] : s.source_cap) list.push_back(name + "=" + std::to_string(count));
        return list.empty() ? json() : list;
    };
    return option;
}

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
    all.push_back(
        choice_option({"embedding", group, "KIND",
                       "jvp: tangents of the first blocks;\nhidden: mean and last hidden state after them, cheaper"},
                      &Settings::embedding, {"jvp", "hidden"}));
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
    all.push_back(automatic_option({"damping", group, "auto|X", "ridge; auto: chosen by leave-one-out"},
                                   &Settings::damping, "auto"));
    all.push_back(bandwidth_option(group));
    all.push_back(refine_option(group));
}

void add_weighted(std::vector<Option>& all, const std::string& group) {
    all.push_back(choice_option({"influence", group, "ORDER",
                                 "of weighted: first-order: influence alone decides; second-order: what samples have "
                                 "in common counts against them, by the curvature of the target loss"},
                                &Settings::influence, {"first-order", "second-order"}));
    all.push_back(choice_option(
        {"curvature", group, "KIND", "of second-order: fisher: of the targets' gradients; needs --columns samples"},
        &Settings::curvature, {"fisher"}));
    all.push_back(optional_option(
        {"learning-rate", group, "X", "of second-order: step size that the weights are optimal for; must be given"},
        &Settings::learning_rate, 1e-300, 1e300));
    all.push_back(optional_option({"lambda", group, "X",
                                   "of weighted: strength of the squared weights' penalty; the number of samples "
                                   "follows; 0 (first-order): equal weights; without it, what gives --select samples"},
                                  &Settings::lambda, 0.0, 1e300));
}

void add_selection(std::vector<Option>& all) {
    const std::string group = "Selection";
    const std::size_t first = all.size();
    all.push_back(
        choice_option({"selection", group, "RULE",
                       "round-robin over the columns, top-k, weighted (optimal weights), or random (the control)"},
                      &Settings::selection, {"round-robin", "top-k", "weighted", "random"}));
    add_weighted(all, group);
    all.push_back(choice_option({"top-k-by", group, "KIND", "top-k ranks by the mean or the max over tasks"},
                                &Settings::top_k_by, {"mean", "max"}));
    all.push_back(select_option(group));
    all.push_back(select_tokens_option(group));
    all.push_back(source_cap_option(group));
    for (std::size_t i = first; i < all.size(); ++i) all[i].of_select = true;
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
        return made_here;
    }();
    return all;
}

namespace {

Idle idle_of_weighted(const Settings& settings, const std::string& option) {
    const bool second_order = settings.influence == "second-order";
    if (settings.selection != "weighted") {
        if (option == "lambda" || (second_order && option == "influence")) return {"selection", settings.selection};
    } else {
        if (option == "select-tokens" || option == "source-cap") return {"selection", "weighted"};
        if (option == "select" && settings.lambda.value_or(0.0) > 0.0) return {"lambda", shortest(*settings.lambda)};
    }
    const bool of_second_order = option == "curvature" || option == "learning-rate";
    if (of_second_order && !second_order) return {"influence", "first-order"};
    if (of_second_order && settings.selection != "weighted") return {"selection", settings.selection};
    return {};
}

}  // namespace

Idle idle(const Settings& settings, const std::string& option) {
    const auto one_of = [&option](std::initializer_list<const char*> names) {
        for (const char* name : names) {
            if (option == name) return true;
        }
        return false;
    };
    const bool exact = settings.command != Command::select && settings.propagation == "none";
    if (exact && one_of({"landmarks", "embedding", "jvp-blocks", "jvp-tangents", "jvp-rank", "embedding-dim",
                         "metadata", "damping", "bandwidth", "refine"})) {
        return {"propagation", "none"};
    }
    if (exact && settings.columns == "tasks" && one_of({"sketch", "sketch-dim"})) return {"columns", "tasks"};
    if (settings.sketch == "none" && option == "sketch-dim") return {"sketch", "none"};
    if (settings.embedding == "hidden" && one_of({"jvp-tangents", "jvp-rank"})) return {"embedding", "hidden"};
    if (settings.selection == "random" && option == "refine") return {"selection", "random"};
    if (settings.selection != "top-k" && option == "top-k-by") return {"selection", settings.selection};
    return idle_of_weighted(settings, option);
}

}  // namespace idistill::config
