// The settings file: what is read, to the digit, and what is refused, with its line.

#include "options_support.hpp"

using namespace options_test;

BOOST_AUTO_TEST_SUITE(options_toml)

BOOST_AUTO_TEST_CASE(the_settings_file_is_read_strictly) {
    const Folder folder;
    struct Bad {
        std::string content;
        int line;
        std::string field, expected, found;  ///< of the last two, parts
    };
    const std::string any = "a string in quotes, a number, true, false or an array", large(30, '9');
    const std::vector<Bad> all{
        {"seed = 1\nlanmarks = 2\n", 2, "lanmarks", "known key", "unknown"},
        {"seed = 1\n# more\n\nzeta = 2\nalpha = 3\n", 4, "zeta", "known key", "unknown"},
        {"config = 'x'\n", 1, "config", "known key", "unknown"},
        {"result = 'x'\n", 1, "result", "known key", "unknown"},
        // tables, of every form
        {"[run]\nseed = 1\n", 1, "run", "key = value", "'[run]'"},
        {"seed = 1\n\n[[run]]\nseed = 1\n", 3, "run", "key = value", "'[[run]]'"},
        {"a.b = 3\n", 1, "a", "key = value", "'a.b = 3'"},
        {"seed.b = 3\n", 1, "seed", "key = value", "a key with a dot 'seed.b = 3'"},
        {"seed = {b = 3}\n", 1, "seed", "key = value", "'seed = {b = 3}'"},
        {"pool = [{b = 3}]\n", 1, "pool", "key = value", "'pool = [{b = 3}]'"},
        {"pool = ['a', {b = 3}]\n", 1, "pool", any, "'{b = 3}'"},
        // syntax
        {"seed\n", 1, "seed", "'='", "end of the line"},
        {"seed = \n", 1, "seed", "value", "end of the line"},
        {"seed =", 1, "seed", "rest of a value", "end of the file"},
        {"out = file.h5\n", 1, "out", any, "'file.h5'"},
        {"out = true.h5 # not a word\n", 1, "out", any, "'true.h5'"},
        {"overwrite = yes\n", 1, "overwrite", any, "'yes'"},
        {"select = 5%\n", 1, "select", any, "'5%'"},
        {"seed = 0123\n", 1, "seed", any, "'0123'"},
        {"bandwidth = 1e999\n", 1, "bandwidth", any, "'1e999'"},
        {"out = \"file\n", 1, "out", "TOML", "control characters"},
        {"seed = 1 2\n", 1, "seed", "a comment or whitespace", "'2'"},
        {"seed = 1\nseed = 2\n", 2, "seed", "every key once", "'seed' again"},
        {"seed = 1\n\"seed\" = 'x'\n", 2, "", "every key once", "again"},
        {"pool = ['a' 'b']\n", 1, "pool", "comma or closing ']'", "'''"},
        {"pool = ['a',\n", 1, "pool", "rest of a value", "end of the file"},
        {"pool = ['a',\n  b,\n]\n", 2, "", "TOML", "value type"},
        {"out = \"a\\qb\"\n", 1, "out", "TOML", "'\\q'"},
        {"= 3\n", 1, "", "keys", "'='"},
        {"out = '\xff'\n", 1, "out", "TOML", "utf-8"},
        // types
        {"seed = [1]\n", 1, "seed", "one value", "array"},
        {"pool = [['a']]\n", 1, "pool", any, "'['a']'"},
        {"pool = ['a',\n 'b', ['c']]\n", 2, "pool", any, "'['c']'"},
        {"\n\nlandmarks = 1e3\n", 3, "landmarks", "whole number", "'1e3'"},
        {"landmarks = 5.0\n", 1, "landmarks", "whole number", "'5.0'"},
        {"landmarks = true\n", 1, "landmarks", "whole number", "'true'"},
        {"select = 5.5\n", 1, "select", "count", "'5.5'"},
        {"unit-flops = inf\n", 1, "unit-flops", "number from 1", "'inf'"},
        {"damping = +nan\n", 1, "damping", "above 0", "'nan'"},
        {"overwrite = 1\n", 1, "overwrite", "on or off", "'1'"},
        {"columns = 3\n", 1, "columns", "samples or tasks", "'3'"},
        {"seed = 1979-05-27\n", 1, "seed", any, "'1979-05-27'"},
        {"seed = 07:32:00\n", 1, "seed", any, "'07:32:00'"},
        {"out = 1979-05-27T07:32:00Z\n", 1, "out", any, "'1979-05-27T07:32:00Z'"},
        // numbers out of range keep their digits
        {"seed = 18446744073709551616\n", 1, "seed", "18446744073709551615", "'18446744073709551616'"},
        {"threads = 1\nseed = -18446744073709551615\n", 2, "seed", "from 0", "'-18446744073709551615'"},
        {"landmarks = " + large, 1, "landmarks", "from 1", "'" + large + "'"},
        {"seed = -1\n", 1, "seed", "from 0", "'-1'"},
        {"threads = 4294967297\n", 1, "threads", "to 1024", "'4294967297'"},
    };
    for (const auto& bad : all) {
        BOOST_TEST_CONTEXT(bad.content) {
            const auto file = folder.file("bad.toml", bad.content);
            const auto failure = run_refused({"--config", file});
            BOOST_TEST(failure.where == file + " line " + std::to_string(bad.line));
            BOOST_TEST(failure.field == bad.field);
            BOOST_TEST(contains(failure.expected, bad.expected), failure.expected);
            BOOST_TEST(contains(failure.found, bad.found), failure.found);
        }
    }
}

BOOST_AUTO_TEST_CASE(what_is_refused_comes_with_a_remedy) {
    const Folder folder;
    const auto remedy = [&folder](const std::string& content) {
        return run_refused({"--config", folder.file("bad.toml", content)}).remedy;
    };
    BOOST_TEST(remedy("lanmarks = 2\n") == "Did you mean landmarks?");
    BOOST_TEST(remedy("out = file.h5\n") == "Write out = \"file.h5\" if a string is meant.");
    BOOST_TEST(contains(remedy("parameters = \"a\\.b\"\n"), "single quotes"));
    for (const char* table : {"[run]\n", "  [run] # a = 1\n", "[[run]]\n", "a = {b = 1}\n", "pool = [{b = 1}]\n"})
        BOOST_TEST(remedy(table) == "Settings files are flat: remove the table.");
    BOOST_TEST(remedy("a.b = 1 # [c]\n") == "Write a key without dots.");
    BOOST_TEST(remedy("pool = [[\"a\"]]\n") == "Settings files are flat: remove the inner brackets.");
    BOOST_TEST(contains(remedy("seed = 1979-05-27\n"), "quotes"));
    BOOST_TEST(contains(remedy("seed = [1]\n"), "brackets"));
    BOOST_TEST(contains(remedy("seed = 1 2\n"), "key = value"));
    BOOST_TEST(run_refused({"--config", folder.path() + "/absent.toml"}).field == "--config");
    BOOST_TEST(run_refused({"--config", folder.path()}).field == "--config");
    BOOST_TEST(run_refused({"--config", ""}).field == "--config");
}

BOOST_AUTO_TEST_CASE(numbers_keep_what_their_digits_say) {
    const Folder folder;
    const auto of_line = [&folder](const std::string& line) {
        return run({"--config", folder.file("run.toml", line)});
    };
    for (const auto& [text, seed] : std::vector<std::pair<std::string, std::uint64_t>>{
             {"43", 43},
             {"0", 0},
             {"+5", 5},
             {"1_000", 1000},
             {"0x10", 16},
             {"0b101", 5},
             {"0o17", 15},
             {"9223372036854775807", 9223372036854775807U},
             {"9223372036854775808", 9223372036854775808U},
             {"18446744073709551615", 18446744073709551615U},
             {"18_446_744_073_709_551_615 # all ones", 18446744073709551615U},
             {"+18446744073709551615\r", 18446744073709551615U},
             {"'18446744073709551615'", 18446744073709551615U}})
        BOOST_TEST(of_line("threads = 1\nseed = " + text + "\nout = 'r'").of<RunSettings>().seed == seed, text);
    for (const auto& [text, value] :
         std::vector<std::pair<std::string, double>>{{"0.1", 0.1},
                                                     {"1e-3", 1e-3},
                                                     {"5", 5.0},
                                                     {"+2.5", 2.5},
                                                     {"1_0.5_0", 10.5},
                                                     {"6.02e+23", 6.02e23},
                                                     {"0.1234567890123456789", 0.1234567890123456789},
                                                     {"5e-324", 5e-324},
                                                     {"'0.3'", 0.3}}) {
        const auto values = of_line("damping = " + text + " # ridge");
        BOOST_TEST((values.of<KernelRidgeSettings>().damping == value), text);
    }
    BOOST_TEST((of_line("select = '5%'").of<BudgetSettings>().percent == 5.0));
    // in a list, behind letters of several bytes
    const auto file = folder.file("pool.toml", "pool = ['\u00e4\u00f6', 7, 1.50, 18446744073709551615, true]");
    BOOST_TEST((parsed(with(needed_without("pool"), {"--config", file})).of<InputSettings>().pool ==
                Words{"\u00e4\u00f6", "7", "1.50", "18446744073709551615", "true"}));
}

BOOST_AUTO_TEST_CASE(strings_and_layout_are_those_of_toml) {
    const Folder folder;
    const auto values = run({"--config", folder.file("run.toml",
                                                     "\xEF\xBB\xBF\"seed\"=3#x\r\n"
                                                     "\tparameters = \"a\\\\.b \\\"#\\\" \\u00e4\\t\" # c\r\n"
                                                     "model = '''a\nb'''\n"
                                                     "pool = [\n  \"p=[q]\", # first\n\n  'r\\s',\n]\n"
                                                     "target = []\nlandmarks = 'auto:600'")});
    BOOST_TEST(values.of<RunSettings>().seed == 3U);
    BOOST_TEST(values.of<GradientSettings>().parameters == "a\\.b \"#\" \u00e4\t");
    BOOST_TEST((values.of<PropagationSettings>().landmarks == 600));
    BOOST_TEST(values.of<InputSettings>().targets.size() == 1U, "an empty array says nothing");
    // the needed options stand on the command line and count over the file
    BOOST_TEST((values.of<InputSettings>().model == "dir" && values.of<InputSettings>().pool == Words{"pool.h5"}));
    const auto of_file = parsed({"--target", "t=u", "--out", "o", "--config", folder.path() + "/run.toml"});
    BOOST_TEST((of_file.of<InputSettings>().model == "a\nb"));
    BOOST_TEST((of_file.of<InputSettings>().pool == Words{"p=[q]", "r\\s"}));
}

BOOST_AUTO_TEST_SUITE_END()
