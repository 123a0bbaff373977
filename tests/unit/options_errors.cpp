// Every way to get the settings wrong on the command line, and values that contradict each other.

#include "idistill/selection/options.hpp"
#include "options_support.hpp"

using namespace options_test;
using selection::against_extras;

BOOST_AUTO_TEST_SUITE(options_errors)

BOOST_AUTO_TEST_CASE(unknown_names_are_errors_with_the_nearest_known_one) {
    BOOST_TEST(contains(run_refused({"--lanmarks", "5"}).remedy, "--landmarks"));
    BOOST_TEST(run_refused({"--lanmarks", "5"}).field == "--lanmarks");
    BOOST_TEST(run_refused({"--jpv-rank=5"}).remedy == "Did you mean --jvp-rank?");
    BOOST_TEST(run_refused({"--optimiser-x", "x"}).field == "--optimiser-x");
    BOOST_TEST(run_refused({"--influences", "gradient"}).field == "--influences");
    BOOST_TEST(run_refused({"-l", "5"}).field == "-l");
    BOOST_TEST(run_refused({"--overwrite", "stray"}).field == "stray");
    BOOST_TEST(run_refused({"--embedding", "gradient-tail:0"}).remedy == "Did you mean gradient-tail:1?");
    BOOST_TEST(run_refused({"--embedding", "gradient-tail:0"}).expected ==
               "jvp, hidden, gradient-tail:M with M of at least 1 or FILE.h5 (a file that ends in .h5), "
               "joined by +, or auto first");
    BOOST_TEST(run_refused({"--embedding", "jpv"}).remedy == "Did you mean jvp?");
    BOOST_TEST(contains(refused(with(needed, {"--config=", "plan"})).field, "--config"));
    BOOST_TEST(contains(run_refused({"--result", "x"}).remedy, "'select'"));
    BOOST_TEST(contains(refused({"select", "--result", "a", "--out", "b", "--landmarks", "5"}).remedy, "a run"));
}

BOOST_AUTO_TEST_CASE(a_word_before_the_options_is_a_command) {
    struct Bad {
        Words words;
        std::string field, expected, remedy;
    };
    for (const auto& bad : {Bad{{"selct", "--result", "r", "--out", "x"},
                                "selct",
                                "plan, select, embed or an option",
                                "Did you mean select?"},
                            {{"plan", "plan", "--out", "x"}, "plan", "embed or an option", "See --help."},
                            {{"plan", "embd"}, "embd", "embed or an option", "Did you mean embed?"},
                            {{"plan", "select", "--out", "x"}, "select", "embed or an option", "See --help."},
                            {{"embed", "stray"}, "stray", "an option", "See --help."}}) {
        const auto failure = refused(bad.words);
        BOOST_TEST((failure.field == bad.field && failure.expected == bad.expected && failure.remedy == bad.remedy));
    }
}

BOOST_AUTO_TEST_CASE(values_are_read_whole_and_ranges_are_checked) {
    struct Bad {
        Words words;
        std::string expected;  ///< part of it
    };
    const std::vector<Bad> all{
        {{"--landmarks", "12x"}, "from 1 to 1048576"},
        {{"--landmarks", "0"}, "from 1"},
        {{"--landmarks", "-3"}, "from 1"},
        {{"--landmarks", "1.5"}, "whole number"},
        {{"--landmarks", "auto:"}, "whole number"},
        {{"--landmarks", "auto:0"}, "from 1"},
        {{"--landmarks", "automatic"}, "whole number"},
        {{"--landmarks", ""}, "whole number"},
        {{"--landmarks", " 5"}, "whole number"},
        {{"--landmarks", "99999999999999999999"}, "from 1"},
        {{"--seed", "-1"}, "from 0"},
        {{"--seed", "18446744073709551616"}, "18446744073709551615"},
        {{"--threads", "0"}, "from 1"},
        {{"--batch-tokens", "0"}, "from 1"},
        {{"--unit-flops", "0"}, "from 1"},
        {{"--unit-flops", "inf"}, "from 1"},
        {{"--sketch-dim", "0"}, "from 1"},
        {{"--jvp-rank", "-1"}, "from 0"},
        {{"--jvp-blocks", "0"}, "from 1"},
        {{"--jvp-tangents", "0"}, "from 1"},
        {{"--embedding-dim", "0"}, "from 1"},
        {{"--stall-timeout", "0.5"}, "from 1"},
        {{"--stall-timeout", "nan"}, "from 1"},
        {{"--damping", "0"}, "above 0"},
        {{"--damping", "-1"}, "above 0"},
        {{"--damping", "inf"}, "above 0"},
        {{"--damping", "median"}, "auto"},
        {{"--bandwidth", "mean"}, "median, auto"},
        {{"--bandwidth", "-2"}, "above 0"},
        {{"--refine", "0.5"}, "from 1"},
        {{"--refine", "-4"}, "from 1"},
        {{"--refine", "nan"}, "from 1"},
        {{"--refine", "all"}, "auto"},
        {{"--bandwidth", "1e999"}, "above 0"},
        {{"--select", "0"}, "at least 1"},
        {{"--select", "0%"}, "above 0%"},
        {{"--select", "101%"}, "100%"},
        {{"--select", "%"}, "percentage"},
        {{"--select", "5.5"}, "count"},
        {{"--select", "5 %"}, "percentage"},
        {{"--select", "nan%"}, "percentage"},
        {{"--select-tokens", "0"}, "from 1"},
        {{"--source-cap", "a=-1"}, "from 0"},
        {{"--source-cap", "a"}, "NAME=N"},
        {{"--source-cap", "a=1", "a=2"}, "once"},
        {{"--max-weight", "0"}, "above 0"},
        {{"--max-weight", "0.5x"}, "at least 1x"},
        {{"--max-weight", "x"}, "1x"},
        {{"--max-weight", "nan"}, "above 0"},
        {{"--source-share", "a=1.5"}, "from 0 to 1"},
        {{"--source-share", "a"}, "NAME=S"},
        {{"--source-share", "a=1", "a=0.5"}, "once"},
        {{"--metadata", "maybe"}, "on or off"},
        {{"--overwrite=maybe"}, "on or off"},
        {{"--columns", "task"}, "samples or tasks"},
        {{"--normalize", "l2"}, "cosine or none"},
        {{"--sketch", "gauss"}, "rademacher"},
        {{"--propagation", "krr"}, "kernel-ridge"},
        {{"--embedding", "file.txt"}, "jvp, hidden, gradient-tail"},
        {{"--embedding", "gradient"}, "cheaper than exact"},
        {{"--embedding", "gradient-tail:0"}, "gradient-tail:M"},
        {{"--embedding", "gradient-tail"}, "gradient-tail:M"},
        {{"--embedding", "jvp+"}, "joined by +"},
        {{"--embedding", "jvp+auto"}, "auto first"},
        {{"--embedding", "auto+jvp"}, "every embedding once"},
        {{"--embedding", "auto+gradient-tail:1+gradient-tail:2+gradient-tail:3"}, "at most 2"},
        {{"--embedding", "jvp+hidden+jvp"}, "every embedding once"},
        {{"--selection", "weights"}, "weighted"},
        {{"--order", "second"}, "second-order"},
        {{"--influence", "gradients"}, "gradient"},
        {{"--kernel", "mean"}, "auto, sum or product"},
        {{"--curvature", "gauss-newton"}, "fisher or hessian"},
        {{"--curvature-rank", "0"}, "from 1"},
        {{"--learning-rate", "0"}, "auto"},
        {{"--lambda", "-1"}, "from 0"},
        {{"--lambda", "nan"}, "from 0"},
        {{"--top-k-by", "min"}, "mean or max"},
        {{"--target", "t2"}, "NAME=FILE"},
        {{"--target", "=f"}, "NAME=FILE"},
        {{"--target", "n="}, "NAME=FILE"},
        {{"--parameters", ""}, "a value"},
        {{"--device", "gpu"}, "auto, cpu or cuda"},
        {{"--dtype", "fp16"}, "auto, fp32 or bf16"},
    };
    for (const auto& bad : all) {
        BOOST_TEST_CONTEXT(bad.words[0] << " " << (bad.words.size() > 1 ? bad.words[1] : "")) {
            const auto failure = run_refused(bad.words);
            const std::string option = bad.words[0].substr(0, bad.words[0].find('='));
            BOOST_TEST(failure.where == "command line");
            BOOST_TEST(failure.field == option);
            BOOST_TEST(contains(failure.expected, bad.expected), failure.expected);
            BOOST_TEST(!failure.found.empty());
            BOOST_TEST(!failure.remedy.empty());
        }
    }
    BOOST_TEST(run_refused({"--selection", "topk"}).remedy == "Did you mean top-k?");
    BOOST_TEST(run_of<BudgetSettings>({"--select", "100%"}).percent.value() == 100.0);
}

BOOST_AUTO_TEST_CASE(an_option_is_given_once_with_its_value) {
    BOOST_TEST(run_refused({"--landmarks", "5", "--landmarks", "6"}).field == "--landmarks");
    BOOST_TEST(run_refused({"--landmarks"}).field == "--landmarks");
    BOOST_TEST(run_refused({"--pool"}).field == "--pool");
    BOOST_TEST(run_refused({"--seed", "--overwrite"}).field == "--seed");
    BOOST_TEST(run_refused({"--seed=", "--overwrite"}).field == "--seed");
    BOOST_TEST(run_refused({"--overwrite", "--overwrite"}).field == "--overwrite");
    BOOST_TEST(contains(run_refused({"--target", "t=other.h5"}).found, "'t' twice"));
    BOOST_TEST(run_refused({"--source-cap", "a=1", "--source-cap", "a=2"}).expected == "every source once");
    BOOST_TEST(contains(run_refused({"--pool", "pool.h5"}).found, "twice"));
}

BOOST_AUTO_TEST_CASE(what_must_be_given_is_named) {
    for (const char* name : {"model", "pool", "target", "out"}) {
        BOOST_TEST(refused(needed_without(name)).field == std::string("--") + name);
        BOOST_TEST(refused(with({"plan"}, needed_without(name))).field == std::string("--") + name);
    }
    BOOST_TEST(refused({"select", "--out", "x"}).field == "--result");
    BOOST_TEST(refused({"select", "--result", "x"}).field == "--out");
    BOOST_TEST(refused({}).field == "--model");
}

BOOST_AUTO_TEST_CASE(second_order_says_what_it_needs) {
    const Words second{"--selection", "weighted", "--order", "second-order"};
    const auto with_rate = with(second, {"--learning-rate", "1e-5"});
    BOOST_TEST(!run_of<WeightedSettings>(second).learning_rate);
    BOOST_TEST((run_of<WeightedSettings>(with_rate).learning_rate == 1e-5));
    BOOST_TEST(run_refused(with(with_rate, {"--lambda", "0"})).field == "--lambda");
    BOOST_TEST(run_refused(with(with_rate, {"--columns", "tasks"})).field == "--columns");
    BOOST_TEST((run_of<WeightedSettings>(with(with_rate, {"--lambda", "3"})).lambda == 3.0));
    BOOST_TEST(against_extras(run(with(with_rate, {"--curvature", "hessian", "--columns", "tasks"}))) == "");
    BOOST_TEST(run_refused({"--curvature", "hessian"}).field == "--learning-rate");
    BOOST_TEST(refused({"select", "--result", "a", "--out", "b", "--curvature", "hessian"}).field == "--learning-rate");
    BOOST_TEST((against_extras(run(with_rate)) == "curvature" && against_extras(run({})) == "curvature"));
    BOOST_TEST(run_refused(with(with_rate, {"--curvature-rank", "4"})).field == "--curvature-rank");
    BOOST_TEST((run_of<InputSettings>({"--selection", "weighted", "--columns", "tasks"}).columns ==
                options::ColumnKind::tasks));
}

/// The first option, with its value, leaves the second one without effect.
void check_idle(const Words& words) {
    const auto failure = run_refused(words);
    BOOST_TEST(failure.field == words[2]);
    BOOST_TEST(contains(failure.found, words[0].substr(2) + " = " + words[1]));
}

BOOST_AUTO_TEST_CASE(contradictions_are_errors) {
    BOOST_TEST(run_refused({"--select", "5", "--select-tokens", "5"}).field == "--select-tokens");
    for (const Words& words : std::vector<Words>{{"--propagation", "none", "--landmarks", "9"},
                                                 {"--propagation", "none", "--embedding", "jvp"},
                                                 {"--propagation", "none", "--jvp-blocks", "2"},
                                                 {"--propagation", "none", "--jvp-tangents", "2"},
                                                 {"--propagation", "none", "--jvp-rank", "2"},
                                                 {"--propagation", "none", "--embedding-dim", "2"},
                                                 {"--propagation", "none", "--metadata", "on"},
                                                 {"--propagation", "none", "--damping", "auto"},
                                                 {"--propagation", "none", "--bandwidth", "2"},
                                                 {"--propagation", "none", "--refine", "4"},
                                                 {"--selection", "random", "--refine", "4"},
                                                 {"--embedding", "hidden", "--jvp-rank", "2"},
                                                 {"--embedding", "hidden", "--jvp-tangents", "2"},
                                                 {"--embedding", "gradient-tail:2", "--jvp-blocks", "2"},
                                                 {"--embedding", "hidden", "--kernel", "product"},
                                                 {"--propagation", "none", "--kernel", "sum"},
                                                 {"--sketch", "none", "--sketch-dim", "2"},
                                                 {"--selection", "weighted", "--select-tokens", "9"},
                                                 {"--selection", "weighted", "--source-cap", "a=1"},
                                                 {"--selection", "top-k", "--lambda", "1"},
                                                 {"--selection", "top-k", "--max-weight", "3x"},
                                                 {"--selection", "random", "--source-share", "a=1"},
                                                 {"--selection", "top-k", "--order", "second-order"},
                                                 {"--order", "first-order", "--curvature", "fisher"},
                                                 {"--order", "first-order", "--learning-rate", "1"},
                                                 {"--order", "first-order", "--curvature-rank", "4"},
                                                 {"--selection", "random", "--top-k-by", "max"}}) {
        check_idle(words);
    }
    BOOST_TEST(run_refused({"--propagation", "none", "--columns", "tasks", "--sketch-dim", "9"}).field ==
               "--sketch-dim");
    BOOST_TEST(run_refused({"--top-k-by", "max"}).field == "--top-k-by");
    BOOST_TEST(run_refused({"--selection", "weighted", "--lambda", "2", "--select", "9"}).field == "--select");
    BOOST_TEST((run_of<BudgetSettings>({"--selection", "weighted", "--lambda", "0", "--select", "9"}).samples == 9));
    BOOST_TEST(run_refused({"--selection", "weighted", "--lambda", "2", "--refine", "3"}).field == "--refine");
    BOOST_TEST(
        (run_of<PropagationSettings>({"--selection", "weighted", "--lambda", "0", "--refine", "3"}).refine == 3.0));
    // with lambda the number of samples is open, and so is their mean weight
    BOOST_TEST(run_refused({"--selection", "weighted", "--lambda", "2", "--max-weight", "9x"}).field == "--max-weight");
    BOOST_TEST((
        run_of<WeightedSettings>({"--selection", "weighted", "--lambda", "2", "--max-weight", "9"}).max_weight == 9.0));
    BOOST_TEST(run_of<WeightedSettings>({"--selection", "weighted", "--lambda", "0", "--max-weight", "9x"})
                   .max_weight_of_mean);
    BOOST_TEST(run_of<PropagationSettings>({"--columns", "tasks"}).member == "kernel-ridge");
    BOOST_TEST((run_of<GradientSettings>({"--sketch", "none"}).sketch == influence::SketchKind::none));
    BOOST_TEST(run_of<EmbeddingSettings>({"--embedding", "hidden", "--jvp-blocks", "2"}).jvp_blocks == 2);

    const Folder folder;
    const auto file = folder.file("run.toml", "select = 3\nselect-tokens = 4\n");
    BOOST_TEST(run_refused({"--config", file}).where == file + " line 2");
    BOOST_TEST((run_of<BudgetSettings>({"--config", file, "--select", "5"}).samples == 5));
    const auto idle = folder.file("idle.toml", "embedding = 'hidden'\njvp-rank = 3\n");
    BOOST_TEST(run_refused({"--config", idle}).where == idle + " line 2");
}

BOOST_AUTO_TEST_CASE(what_auto_makes_idle_names_the_option_that_it_goes_by) {
    for (const Words& words : std::vector<Words>{{"--select-tokens", "9", "--lambda", "1"},
                                                 {"--select-tokens", "9", "--learning-rate", "1"},
                                                 {"--select-tokens", "9", "--order", "first-order"},
                                                 {"--select-tokens", "9", "--source-share", "a=1"},
                                                 {"--source-cap", "a=1", "--max-weight", "3x"},
                                                 {"--lambda", "0", "--learning-rate", "1"},
                                                 {"--columns", "tasks", "--curvature-rank", "4"}}) {
        check_idle(words);
    }
    // a value of the file that the command line makes idle is no contradiction, whichever way it does
    const Folder folder;
    const auto file = folder.file("run.toml", "lambda = 0.5\nlearning-rate = 0.1\n");
    const auto tokens = run({"--config", file, "--select-tokens", "9"});
    const auto& weighted = tokens.of<WeightedSettings>();
    BOOST_TEST((!weighted.lambda && !weighted.learning_rate));
    BOOST_TEST(tokens.of<SelectionSettings>().member == "round-robin");
    BOOST_TEST(run_of<SelectionSettings>({"--config", file, "--source-cap", "a=1"}).member == "round-robin");
    const auto of_file = folder.file("tokens.toml", "select-tokens = 9\n");
    BOOST_TEST(contains(run_refused({"--config", of_file, "--max-weight", "5x"}).found, "select-tokens = 9"));
    BOOST_TEST(run_of<SelectionSettings>({"--config", of_file, "--max-weight", "5x", "--select", "3"}).member ==
               "weighted");
}

BOOST_AUTO_TEST_CASE(out_is_never_an_input) {
    const Folder folder;
    const auto pool = folder.file("pool.h5", "");
    const auto config = folder.file("run.toml", "seed = 1\n");
    std::filesystem::create_symlink(pool, folder.path() + "/link.h5");
    const auto refuses = [](const Words& words) { return refused(words).field == "--out"; };
    BOOST_TEST(refuses({"--model", "m", "--pool", pool, "--target", "t=u", "--out", pool}));
    BOOST_TEST(refuses({"--model", "m", "--pool", pool, "--target", "t=u", "--out", folder.path() + "/x/../pool.h5"}));
    BOOST_TEST(refuses({"--model", "m", "--pool", pool, "--target", "t=u", "--out", folder.path() + "/link.h5"}));
    BOOST_TEST(refuses({"--model", "m", "--pool", pool, "--target", "t=u", "--out", "./u", "--overwrite"}));
    BOOST_TEST(refuses({"--model", "m", "--pool", pool, "--target", "t=u", "--out", "./o", "--optimizer", "o"}));
    BOOST_TEST(refuses({"--model", "m", "--pool", pool, "--target", "t=u", "--out", config, "--config", config}));
    BOOST_TEST(refuses({"select", "--result", "r.h5", "--out", "r.h5", "--overwrite"}));
}

BOOST_AUTO_TEST_CASE(old_spellings_name_the_new_ones) {
    const Folder folder;
    struct Old {
        Words words;
        std::string line, field, value, name;
    };
    for (const auto& [words, line, field, value, name] :
         {Old{{"--influence", "first-order"}, "influence = 'first-order'", "influence", "first-order", "order"},
          {{"--influence=second-order"}, "influence = \"second-order\"", "influence", "second-order", "order"},
          {{"--influence", "auto"}, "influence = 'auto'", "influence", "auto", "order"},
          {{"--rank", "5"}, "rank = 5", "rank", "5", "curvature-rank"},
          {{"--rank=5"}, "rank = '5'", "rank", "5", "curvature-rank"}}) {
        BOOST_TEST_CONTEXT(words[0]) {
            const auto file = folder.file("old.toml", "seed = 1\n" + line + "\n");
            const Words of_select{"select", "--result", "a", "--out", "b"};
            const Words of_embed{"embed", "--model", "m", "--pool", "p", "--out", "b"};
            std::vector<Failure> on_line{run_refused(words), refused(with({"plan"}, with(needed, words)))};
            std::vector<Failure> in_file{run_refused({"--config", file})};
            // a command without the new option says so, and its name
            std::vector<Words> without{of_embed, with({"plan"}, of_embed)};
            if (name == "order") {
                on_line.push_back(refused(with(of_select, words)));
                in_file.push_back(refused(with(of_select, {"--config", file})));
            } else {
                without.push_back(of_select);
            }
            for (const auto& command : without) {
                for (const auto& given : {words, Words{"--config", file}}) {
                    const auto failure = refused(with(command, given));
                    BOOST_TEST(failure.remedy.starts_with("It belongs to a run"));
                    BOOST_TEST(contains(failure.found, value + "', an older spelling of "));
                    BOOST_TEST(failure.found.ends_with((given == words ? " --" : " ") + name));
                }
            }
            for (const auto& failure : on_line) {
                BOOST_TEST((failure.where == "command line" && failure.field == "--" + field));
                BOOST_TEST(failure.expected == "--" + name);
                BOOST_TEST(failure.found == "'--" + field + " " + value + "', an older spelling");
                BOOST_TEST(failure.remedy == "Write --" + name + " instead of --" + field + ".");
            }
            for (const auto& failure : in_file) {
                BOOST_TEST((failure.where == file + " line 2" && failure.field == field && failure.expected == name));
                BOOST_TEST(failure.found == "'" + field + " = " + value + "', an older spelling");
                BOOST_TEST(failure.remedy == "Write " + name + " instead of " + field + ".");
            }
        }
    }
    BOOST_TEST(run_refused({"-rank", "3"}).found == "'-rank 3', an older spelling");
    BOOST_TEST(run_refused({"-rank", "3"}).remedy == "Write --curvature-rank instead of -rank.");
    BOOST_TEST(run_refused({"-jvp-rank", "3"}).remedy == "Did you mean --jvp-rank?");
    BOOST_TEST(run_of<InfluenceSettings>({"--influence", "gradient"}).member == "gradient");
    BOOST_TEST(contains(refused({"select", "--result", "a", "--out", "b", "--influence", "gradient"}).remedy, "a run"));
}

BOOST_AUTO_TEST_SUITE_END()
