// --help, --version and the tables of the documentation.

#include <set>
#include <sstream>

#include "options_cases.hpp"

using namespace options_test;

namespace {

/// Options named at the start of a line of help.
std::set<std::string> options_in_help(const Words& words) {
    std::set<std::string> names;
    std::istringstream lines(text_of(words));
    for (std::string line; std::getline(lines, line);)
        if (line.starts_with("  --")) names.insert(line.substr(4, line.find(' ', 4) - 4));
    return names;
}

/// Cells of the rows that begin with an option, without the spaces around them.
std::vector<Words> rows(const std::string& markdown) {
    std::vector<Words> all;
    std::istringstream lines(markdown);
    for (std::string line; std::getline(lines, line);) {
        if (!line.starts_with("| `--")) continue;
        auto& cells = all.emplace_back(1);
        for (std::size_t i = 1; i < line.size(); ++i) {
            if (line[i] != '|' || line[i - 1] == '\\')
                cells.back() += line[i];
            else
                cells.emplace_back();
        }
        BOOST_TEST(cells.back().empty(), line);
        cells.pop_back();
        for (auto& cell : cells) {
            while (cell.starts_with(' ')) cell.erase(0, 1);
            while (cell.ends_with(' ')) cell.pop_back();
        }
    }
    return all;
}

/// The row of an option; of two, that of a run.
Words row(const std::string& option) {
    const auto all = rows(text_of({"--help=markdown"}));
    for (const auto& cells : all)
        if (cells.at(0) == "`--" + option + "`") return cells;
    BOOST_ERROR("no row of " + option);
    return Words(6);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(options_texts)

BOOST_AUTO_TEST_CASE(the_cases_are_all_options_there_are) {
    std::set<std::string> tested{"config", "version"};
    for (const auto& one : cases()) tested.insert(one.name);
    BOOST_TEST(options_in_help({"--help"}) == tested, boost::test_tools::per_element());
    BOOST_TEST(options_in_help({"plan", "-h"}) == tested, boost::test_tools::per_element());
    const std::set<std::string> of_select{
        "config",        "version",       "result",       "out",       "overwrite",     "selection", "top-k-by",
        "select",        "select-tokens", "source-cap",   "seed",      "stall-timeout", "order",     "lambda",
        "learning-rate", "max-weight",    "source-share", "curvature", "similarity",    "greedy",    "neighbours",
        "memory",        "eta",           "nu",           "held"};
    BOOST_TEST(options_in_help({"select", "--help"}) == of_select, boost::test_tools::per_element());
    const std::set<std::string> of_embed{"config",     "version",       "model",         "pool",       "out",
                                         "overwrite",  "parameters",    "embedding",     "jvp-blocks", "jvp-tangents",
                                         "jvp-rank",   "seed",          "dtype",         "threads",    "batch-tokens",
                                         "unit-flops", "stall-timeout", "embedding-dim", "device"};
    BOOST_TEST(options_in_help({"embed", "--help"}) == of_embed, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(help_and_version) {
    const auto help = text_of({"--help"});
    for (const char* part : {"idistill_mpi plan", "idistill_mpi select", "[4096]", "[5%]", "[auto]", "Example",
                             "--config run.toml", "Selection:", "--help=markdown"})
        BOOST_TEST(contains(help, part), part);
    std::istringstream lines(help);
    for (std::string line; std::getline(lines, line);) BOOST_TEST(line.size() <= 100U, line);
    BOOST_TEST(text_of({"--version"}) == "idistill_mpi 1.2\n");
    BOOST_TEST(contains(text_of({"plan", "--help"}), "without loading the model"));
    BOOST_TEST(!contains(text_of({"select", "--help"}), "--landmarks"));
    const auto of_embed = text_of({"embed", "--help"});  // one embedding, the dearest too
    BOOST_TEST((contains(of_embed, "--embedding KIND ") && contains(of_embed, "gradient: of all")));
    BOOST_TEST((!contains(of_embed, "auto:") && contains(help, "auto:") && contains(help, "KIND[+KIND]")));
}

BOOST_AUTO_TEST_CASE(the_headings_of_help_come_once_each) {
    std::set<std::string> seen;
    std::string group;
    for (const auto& option : program_options().options) {
        if (option.group != group) BOOST_TEST(seen.insert(option.group).second, option.group);
        group = option.group;
    }
}

BOOST_AUTO_TEST_CASE(markdown_has_every_option_once) {
    const auto text = text_of({"--help=markdown"});
    BOOST_TEST(text == text_of({"plan", "--help=markdown"}));
    std::multiset<std::string> named, expected;
    for (const auto& cells : rows(text)) {
        BOOST_REQUIRE(cells.size() == 6U);
        named.insert(cells[0]);
        BOOST_TEST(!cells[3].empty(), cells[0]);
        BOOST_TEST(!cells[5].empty(), cells[0]);
    }
    for (const auto& option : program_options().options) expected.insert("`--" + option.name + "`");
    BOOST_TEST(named == expected, boost::test_tools::per_element());
    BOOST_TEST((named.count("`--embedding`") == 2U && named.count("`--seed`") == 1U));
    for (const std::string group : {"### What\n", "### Run\n", "### Selection\n"}) BOOST_TEST(contains(text, group));
    BOOST_TEST(refused({"--help=html"}).field == "--help");
}

BOOST_AUTO_TEST_CASE(markdown_says_values_defaults_and_what_takes_the_effect) {
    BOOST_TEST(
        (row("sketch-dim") == Words{"`--sketch-dim`", "`auto\\|K`", "`auto`",
                                    "numbers kept per gradient, all layers together; auto: 98304, with an optimizer "
                                    "655360, with less 1310720 over all checkpoints",
                                    "`--influence delift`, `delift-se`, `selectit`; `--sketch none`", "run, plan"}));
    BOOST_TEST(row("columns")[1] == "`samples`, `tasks`");
    BOOST_TEST(row("select")[2] == "`5%`");
    BOOST_TEST((row("landmarks")[1] == "`L\\|P%\\|auto[:MOST]`" && row("overwrite")[1].empty()));
    BOOST_TEST(row("seed")[5] == "run, plan, select, embed");
    BOOST_TEST(row("jvp-rank")[4] == "`--propagation none`; `--embedding hidden`, `gradient-tail:M`, `FILE.h5`");
    BOOST_TEST(row("top-k-by")[4] == "`--selection` other than `top-k`");
    BOOST_TEST(row("refine")[4] ==
               "`--propagation none`; `--selection random`, `facility-location`, `facility-location-mi`, "
               "`facility-location-cg`; `--lambda X`");
    const std::string no_weights =
        "`--selection round-robin`, `top-k`, `random`, `facility-location`, `facility-location-mi`, "
        "`facility-location-cg`; `--select-tokens N`; `--source-cap NAME=N`";
    for (const char* option : {"order", "lambda", "max-weight", "source-share"})
        BOOST_TEST(row(option)[4] == no_weights, option);
    BOOST_TEST(row("learning-rate")[4] == no_weights + "; `--order first-order`; `--lambda 0`");
    // beside --curvature hessian, without which it has none
    BOOST_TEST(row("curvature-rank")[4] == "`--influence` other than `gradient`; " + no_weights +
                                               "; `--order first-order`; `--curvature fisher`; `--lambda 0`");
}

BOOST_AUTO_TEST_SUITE_END()
