// Every option from command line and settings file, what is recorded of it, and the help.

#include <set>
#include <sstream>

#include "config_option_cases.hpp"

using namespace config_test;

namespace {

std::string text_of(const Words& words) {
    std::string text;
    BOOST_TEST(!parse(words, text, "1.2").has_value());
    return text;
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

BOOST_AUTO_TEST_CASE(by_default_weights_are_chosen_to_second_order_as_far_as_possible) {
    struct Case {
        Words words;
        std::string selection, influence;
    };
    const std::string weighted = "weighted", turns = "round-robin", first = "first-order", second = "second-order";
    for (const auto& [words, selection, influence] :
         {Case{{}, weighted, second},
          {{"--selection", "auto", "--influence", "auto"}, weighted, second},
          {{"--lambda", "2"}, weighted, second},
          {{"--lambda", "0"}, weighted, first},
          {{"--influence", "first-order"}, weighted, first},
          {{"--columns", "tasks"}, turns, first},
          {{"--select-tokens", "9"}, turns, second},
          {{"--source-cap", "a=1"}, turns, second},
          {{"--columns", "tasks", "--source-share", "a=0.5"}, weighted, first},
          {{"--columns", "tasks", "--max-weight", "9"}, weighted, first},
          {{"--columns", "tasks", "--selection", "weighted"}, weighted, first},
          {{"--columns", "tasks", "--curvature", "hessian", "--learning-rate", "1"}, weighted, second},
          {{"--selection", "top-k"}, "top-k", second}}) {
        const auto settings = run(words);
        BOOST_TEST_CONTEXT(json(words).dump()) {
            BOOST_TEST(settings.selection == selection);
            BOOST_TEST(settings.influence == influence);
            BOOST_TEST(json::parse(to_json(settings)).at("selection") == selection);
            BOOST_TEST(contains(to_table(settings), "  influence ") == (selection == "weighted"));
        }
    }
    // `select` learns from the result what its columns are
    auto again = parsed({"select", "--result", "r.h5", "--out", "s.h5"});
    BOOST_TEST((again.selection == "auto" && resolved(again).selection == "weighted"));
    again.columns = "tasks";
    BOOST_TEST(resolved(again).selection == "round-robin");
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
    const auto of_embed = text_of({"embed", "--help"});  // one embedding, the dearest too
    BOOST_TEST((contains(of_embed, "--embedding KIND ") && contains(of_embed, "gradient: of all")));
    BOOST_TEST((!contains(of_embed, "auto:") && contains(help, "auto:") && contains(help, "KIND[+KIND]")));
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
    const Words weighted{"--selection", "weighted", "--refine", "3"};
    const auto shares = json::parse(identity(with(weighted, {"--source-share", "b=1", "--source-share", "a=0.5"})));
    BOOST_TEST((shares != json::parse(identity(weighted)) && shares.at("source-share") == "a=0.5, b=1"));
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
