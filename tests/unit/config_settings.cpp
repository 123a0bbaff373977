// Every option from command line and settings file, what is recorded of it, and the help.

#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "config_support.hpp"
#include "idistill/config/settings.hpp"

using namespace config_test;
using nlohmann::json;

namespace {

std::string text_of(const Words& words) {
    std::string text;
    BOOST_TEST(!parse(words, text, "1.2").has_value());
    return text;
}

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

const std::vector<Case>& cases() {
    static const std::vector<Case> all{
        {"model", {"--model", "x y"}, "model = \"x y\"", "x y", [](const Settings& s) { return s.model == "x y"; }, {}},
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
        {"optimizer",
         {"--optimizer", "state.safetensors"},
         "optimizer = \"state.safetensors\"",
         "state.safetensors",
         [](const Settings& s) { return s.optimizer == "state.safetensors"; },
         {}},
        {"parameters",
         {"--parameters", "layers\\.[0-3]\\."},
         "parameters = 'layers\\.[0-3]\\.'",
         "layers\\.[0-3]\\.",
         [](const Settings& s) { return s.parameters == "layers\\.[0-3]\\."; },
         {}},
        {"normalize",
         {"--normalize", "none"},
         "normalize = \"none\"",
         "none",
         [](const Settings& s) { return s.normalize == "none"; },
         {}},
        {"sketch",
         {"--sketch", "hadamard"},
         "sketch = \"hadamard\"",
         "hadamard",
         [](const Settings& s) { return s.sketch == "hadamard"; },
         {}},
        {"contrast", {"--contrast", "0"}, "contrast = 0", 0, [](const Settings& s) { return s.contrast == 0; }, {}},
        {"sketch-dim",
         {"--sketch-dim", "77"},
         "sketch-dim = 77",
         77,
         [](const Settings& s) { return s.sketch_dim == 77; },
         {}},
        {"propagation",
         {"--propagation", "none"},
         "propagation = \"none\"",
         "none",
         [](const Settings& s) { return s.propagation == "none"; },
         {}},
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
        {"embedding",
         {"--embedding", "hidden"},
         "embedding = \"hidden\"",
         "hidden",
         [](const Settings& s) { return s.embedding == "hidden"; },
         {}},
        {"embedding",
         {"--embedding", "jvp+gradient-tail:12"},
         "embedding = \"jvp+gradient-tail:12\"",
         "jvp+gradient-tail:12",
         [](const Settings& s) { return s.embedding == "jvp+gradient-tail:12"; },
         {}},
        {"kernel",
         {"--kernel", "product"},
         "kernel = 'product'",
         "product",
         [](const Settings& s) { return s.kernel == "product"; },
         {"--embedding", "jvp+hidden"}},
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
        {"jvp-rank", {"--jvp-rank", "0"}, "jvp-rank = 0", 0, [](const Settings& s) { return s.jvp_rank == 0; }, {}},
        {"embedding-dim",
         {"--embedding-dim", "9"},
         "embedding-dim = 9",
         9,
         [](const Settings& s) { return s.embedding_dim == 9; },
         {}},
        {"metadata",
         {"--metadata", "off"},
         "metadata = false",
         "off",
         [](const Settings& s) { return !s.metadata; },
         {}},
        {"damping",
         {"--damping", "0.25"},
         "damping = 0.25",
         0.25,
         [](const Settings& s) { return s.damping == 0.25; },
         {}},
        {"bandwidth",
         {"--bandwidth", "1e3"},
         "bandwidth = 1e3",
         1000.0,
         [](const Settings& s) { return s.bandwidth == 1000.0; },
         {}},
        {"refine", {"--refine", "2.5"}, "refine = 2.5", 2.5, [](const Settings& s) { return s.refine == 2.5; }, {}},
        {"selection",
         {"--selection", "top-k"},
         "selection = \"top-k\"",
         "top-k",
         [](const Settings& s) { return s.selection == "top-k"; },
         {}},
        {"top-k-by",
         {"--top-k-by", "max"},
         "top-k-by = \"max\"",
         "max",
         [](const Settings& s) { return s.top_k_by == "max"; },
         {"--selection", "top-k"}},
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
        {"influence",
         {"--influence", "second-order"},
         "influence = 'second-order'",
         "second-order",
         [](const Settings& s) { return s.influence == "second-order"; },
         {"--selection", "weighted", "--learning-rate", "1e-4"}},
        {"curvature",
         {"--curvature", "hessian"},
         "curvature = 'hessian'",
         "hessian",
         [](const Settings& s) { return s.curvature == "hessian"; },
         {"--selection", "weighted", "--influence", "second-order", "--learning-rate", "1e-4"}},
        {"rank",
         {"--rank", "5"},
         "rank = 5",
         5,
         [](const Settings& s) { return s.rank == 5; },
         {"--selection", "weighted", "--influence", "second-order", "--learning-rate", "1e-4", "--curvature",
          "hessian"}},
        {"learning-rate",
         {"--learning-rate", "2e-5"},
         "learning-rate = 2e-5",
         2e-5,
         [](const Settings& s) { return s.learning_rate == 2e-5; },
         {"--selection", "weighted", "--influence", "second-order"}},
        {"lambda",
         {"--lambda", "0.25"},
         "lambda = 0.25",
         0.25,
         [](const Settings& s) { return s.lambda == 0.25; },
         {"--selection", "weighted"}},
        {"seed",
         {"--seed", "18446744073709551615"},
         "seed = 18446744073709551615",
         18446744073709551615ULL,
         [](const Settings& s) { return s.seed == 18446744073709551615ULL; },
         {}},
        {"device",
         {"--device", "cpu"},
         "device = \"cpu\"",
         "cpu",
         [](const Settings& s) { return s.device == "cpu"; },
         {}},
        {"dtype",
         {"--dtype", "fp32"},
         "dtype = \"fp32\"",
         "fp32",
         [](const Settings& s) { return s.dtype == "fp32"; },
         {}},
        {"threads", {"--threads", "4"}, "threads = 4", 4, [](const Settings& s) { return s.threads == 4; }, {}},
        {"batch-tokens",
         {"--batch-tokens", "100"},
         "batch-tokens = 100",
         100,
         [](const Settings& s) { return s.batch_tokens == 100; },
         {}},
        {"unit-flops",
         {"--unit-flops", "2e9"},
         "unit-flops = 2e9",
         2e9,
         [](const Settings& s) { return s.unit_flops == 2e9; },
         {}},
        {"stall-timeout",
         {"--stall-timeout", "1.5"},
         "stall-timeout = 1.5",
         1.5,
         [](const Settings& s) { return s.stall_timeout_seconds == 1.5; },
         {}},
    };
    return all;
}

/// Options named at the start of a line of help.
std::set<std::string> options_in_help(const Words& words) {
    std::set<std::string> names;
    std::istringstream lines(text_of(words));
    for (std::string line; std::getline(lines, line);) {
        if (line.starts_with("  --")) names.insert(line.substr(4, line.find(' ', 4) - 4));
    }
    return names;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(config_settings)

BOOST_AUTO_TEST_CASE(every_option_goes_round_from_the_command_line_and_from_the_file) {
    const Folder folder;
    for (const auto& one : cases()) {
        BOOST_TEST_CONTEXT(one.name) {
            const Words base = with(needed_without(one.name), one.also);
            const std::string file = folder.file("run.toml", "# settings\n\n" + one.toml + "\n");
            for (const auto& settings : {parsed(with(base, one.words)), parsed(with(base, {"--config", file}))}) {
                BOOST_TEST(one.holds(settings));
                BOOST_TEST(json::parse(to_json(settings)).at(one.name) == one.recorded);
                const auto table = to_table(settings);
                BOOST_TEST(contains(table, "  " + one.name + " "));
            }
            if (one.name == "select-tokens") continue;  // has no default of its own
            const auto standard = json::parse(to_json(run({})));
            const bool given = needed_without(one.name).size() < needed.size();
            if (!given) BOOST_TEST(!one.holds(run({})), "the value tested is the default");
        }
    }
}

BOOST_AUTO_TEST_CASE(the_cases_above_are_all_options_there_are) {
    std::set<std::string> tested{"config", "version"};
    for (const auto& one : cases()) tested.insert(one.name);
    BOOST_TEST(options_in_help({"--help"}) == tested, boost::test_tools::per_element());
    BOOST_TEST(options_in_help({"plan", "-h"}) == tested, boost::test_tools::per_element());
    const std::set<std::string> of_select{
        "config",    "version",   "result",        "out",           "overwrite",  "selection",
        "top-k-by",  "select",    "select-tokens", "source-cap",    "seed",       "stall-timeout",
        "influence", "curvature", "lambda",        "learning-rate", "max-weight", "source-share"};
    BOOST_TEST(options_in_help({"select", "--help"}) == of_select, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(defaults) {
    const auto settings = run({});
    BOOST_TEST((settings.command == Command::run));
    BOOST_TEST((settings.select_percent == 5.0));
    BOOST_TEST((settings.seed == 43U && !settings.landmarks && settings.threads == 1));
    BOOST_TEST(json::parse(to_json(settings)).at("landmarks") == 4096);
    BOOST_TEST((!settings.damping && !settings.bandwidth && settings.metadata && !settings.overwrite));
    BOOST_TEST((parsed(with({"plan"}, needed)).command == Command::plan));
    const auto again = parsed({"select", "--result", "r.h5", "--out", "s.h5", "--select", "2.5%"});
    BOOST_TEST((again.command == Command::select && again.result == "r.h5" && again.select_percent == 2.5));
    BOOST_TEST(json::parse(to_json(again)).at("select") == "2.5%");
    BOOST_TEST(!json::parse(to_json(again)).contains("landmarks"));
    BOOST_TEST((run({"--damping", "auto", "--bandwidth", "median"}).damping == std::nullopt));
    BOOST_TEST((settings.refine == 0.0 && !settings.bandwidth_auto));
}

BOOST_AUTO_TEST_CASE(embed_makes_one_embedding) {
    const Words needed_here{"embed", "--model", "m", "--pool", "p.h5", "--out", "o.h5"};
    const auto settings = parsed(with(needed_here, {"--embedding", "gradient", "--parameters", "q_proj"}));
    BOOST_TEST((settings.command == Command::embed && settings.embedding == "gradient"));
    const auto object = json::parse(to_json(settings));
    BOOST_TEST((object.contains("parameters") && !object.contains("landmarks") && !object.contains("sketch")));
    BOOST_TEST(!json::parse(identity_json(settings)).contains("jvp-rank"));
    for (const std::string embedding : {"auto", "jvp+hidden", "other.h5"})
        BOOST_TEST(contains(refused(with(needed_here, {"--embedding", embedding})).expected, "gradient, jvp"));
    BOOST_TEST(contains(refused(with(needed_here, {"--landmarks", "4"})).remedy, "belongs to a run"));
    BOOST_TEST(refused(with(needed_here, {"--embedding", "hidden", "--parameters", "q"})).field == "--parameters");
    const std::set<std::string> of_embed{"config",     "version",       "model",         "pool",       "out",
                                         "overwrite",  "parameters",    "embedding",     "jvp-blocks", "jvp-tangents",
                                         "jvp-rank",   "seed",          "dtype",         "threads",    "batch-tokens",
                                         "unit-flops", "stall-timeout", "embedding-dim", "device"};
    BOOST_TEST(options_in_help({"embed", "--help"}) == of_embed, boost::test_tools::per_element());
    BOOST_TEST(run_refused({"--embedding", "jvp+out.h5"}).field == "--out");
}

BOOST_AUTO_TEST_CASE(words_that_leave_a_number_to_the_program) {
    const auto bandwidth = run({"--bandwidth", "auto"});
    BOOST_TEST((bandwidth.bandwidth_auto && !bandwidth.bandwidth));
    BOOST_TEST(json::parse(to_json(bandwidth)).at("bandwidth") == "auto");
    BOOST_TEST((identity_json(bandwidth) != identity_json(run({"--bandwidth", "median"}))));
    const auto refine = run({"--refine", "auto"});
    BOOST_TEST((!refine.refine && refines(refine)));
    BOOST_TEST(json::parse(to_json(refine)).at("refine") == "auto");
    BOOST_TEST((refines(run({"--refine", "1"})) && !refines(run({})) && !refines(run({"--refine", "0"}))));
    BOOST_TEST((!refines(run({"--propagation", "none"})) && !refines(run({"--selection", "random"}))));
}

BOOST_AUTO_TEST_CASE(help_and_version) {
    const auto help = text_of({"--help"});
    for (const char* part : {"idistill_mpi plan", "idistill_mpi select", "[4096]", "[5%]", "[auto]", "Example",
                             "--config run.toml", "Selection:"}) {
        BOOST_TEST(contains(help, part), part);
    }
    std::istringstream lines(help);
    for (std::string line; std::getline(lines, line);) BOOST_TEST(line.size() <= 100U, line);
    BOOST_TEST(text_of({"--version"}) == "idistill_mpi 1.2\n");
    BOOST_TEST(contains(text_of({"plan", "--help"}), "without loading the model"));
    BOOST_TEST(!contains(text_of({"select", "--help"}), "--landmarks"));
}

BOOST_AUTO_TEST_CASE(the_command_line_counts_over_the_file) {
    const Folder folder;
    const auto file =
        folder.file("run.toml",
                    "model = 'm'\npool = ['p', 'q']\ntarget = ['t=u']\nout = 'o'\nlandmarks = 7\nselect-tokens = 9\n"
                    "embedding = 'jvp'\njvp-rank = 4\n");
    const auto from_file = parsed({"--config", file});
    BOOST_TEST((from_file.landmarks == 7 && from_file.select_tokens == 9 && from_file.pool.size() == 2U));
    const auto both = parsed({"--config", file, "--landmarks", "8", "--select", "3", "--pool", "r"});
    BOOST_TEST((both.landmarks == 8 && both.select_samples == 3 && !both.select_tokens && both.pool == Words{"r"}));
    // a key of the file that the command line makes idle is how variants are run
    BOOST_TEST(parsed({"--config", file, "--embedding", "hidden"}).embedding == "hidden");
    BOOST_TEST(parsed({"--config", file, "--propagation", "none"}).propagation == "none");
    const auto variant = parsed({"--config", file, "--embedding", "hidden", "--selection", "weighted"});
    BOOST_TEST((variant.jvp_rank == 8 && !variant.select_tokens && variant.select_percent == 5.0),
               "as if it were not there");
}

BOOST_AUTO_TEST_CASE(identity_is_what_decides_the_numbers) {
    const auto identity = [](const Words& words) { return identity_json(run(words)); };
    const std::string standard = identity({});
    const std::set<std::string> without{"model",         "pool",          "target",     "out",           "overwrite",
                                        "selection",     "top-k-by",      "select",     "select-tokens", "source-cap",
                                        "stall-timeout", "device",        "dtype",      "optimizer",     "influence",
                                        "lambda",        "learning-rate", "max-weight", "source-share"};
    for (const auto& one : cases()) {
        BOOST_TEST_CONTEXT(one.name) {
            const bool same =
                identity_json(parsed(with(with(needed_without(one.name), one.also), one.words))) == standard;
            BOOST_TEST(same == without.contains(one.name));
        }
    }
    BOOST_TEST(identity({"--landmarks", "4096"}) == standard);
    const auto object = json::parse(standard);
    BOOST_TEST(object.at("device") == "cpu");
    BOOST_TEST(object.at("dtype") == "fp32");
    BOOST_TEST(object.at("threads") == 1);
    for (const auto& [key, value] : object.items()) BOOST_TEST(value.is_primitive(), key);
    // what is refined is what the selection would take
    for (const Words& words :
         std::vector<Words>{{"--select", "7"}, {"--selection", "top-k"}, {"--source-cap", "a=1"}}) {
        BOOST_TEST(identity(with({"--refine", "3"}, words)) != identity({"--refine", "3"}));
        BOOST_TEST(identity(words) == standard);
    }
    BOOST_TEST(identity({"--selection", "random"}) == standard);
    // second order takes nothing but what is there, except the Hessian's columns
    const Words second{"--selection", "weighted", "--influence", "second-order", "--learning-rate", "1"};
    BOOST_TEST(identity(second) == standard);
    BOOST_TEST(json::parse(identity(with(second, {"--curvature", "hessian"}))).at("rank") == 16);
    // what has no effect does not stand in the way of a restart
    BOOST_TEST(!json::parse(identity({"--embedding", "hidden"})).contains("jvp-rank"));
    BOOST_TEST(!json::parse(identity({"--propagation", "none"})).contains("landmarks"));
    BOOST_TEST(!json::parse(identity({"--propagation", "none", "--columns", "tasks"})).contains("sketch"));
}

BOOST_AUTO_TEST_SUITE_END()
