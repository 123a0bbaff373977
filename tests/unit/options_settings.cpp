// Every option from command line and settings file, and what is recorded of it.

#include <set>

#include "idistill/influence/gradient/options.hpp"
#include "idistill/propagation/options.hpp"
#include "idistill/selection/options.hpp"
#include "options_cases.hpp"

using namespace options_test;
using propagation::refines;
using selection::Order;

BOOST_AUTO_TEST_SUITE(options_settings)

BOOST_AUTO_TEST_CASE(every_option_goes_round_from_the_command_line_and_from_the_file) {
    const Folder folder;
    for (const auto& one : cases()) {
        BOOST_TEST_CONTEXT(one.name) {
            const Words base = with(needed_without(one.name), one.also);
            const std::string file = folder.file("run.toml", "# settings\n\n" + one.toml + "\n");
            for (const auto& values : {parsed(with(base, one.words)), parsed(with(base, {"--config", file}))}) {
                BOOST_TEST(one.holds(values));
                BOOST_TEST(json::parse(json_of(values)).at(one.name) == one.recorded);
                BOOST_TEST(contains(to_table(program_options(), values), "  " + one.name + " "));
            }
            // an option without a default of its own, and one with one value so far
            if (one.name == "select-tokens" || one.name == "influence") continue;
            const bool given = needed_without(one.name).size() < needed.size();
            if (!given) BOOST_TEST(!one.holds(run({})), "the value tested is the default");
        }
    }
}

BOOST_AUTO_TEST_CASE(defaults) {
    const auto values = run({});
    const auto& propagation = values.of<PropagationSettings>();
    const auto& ridge = values.of<KernelRidgeSettings>();
    const auto& inputs = values.of<InputSettings>();
    BOOST_TEST((values.command == Command::run && !values.plan_only));
    BOOST_TEST((values.of<BudgetSettings>().percent == 5.0));
    BOOST_TEST((values.of<RunSettings>().seed == 43U && values.of<RunSettings>().threads == 1));
    BOOST_TEST((!propagation.landmarks && propagation.refine == 0.0 && propagation.member == "kernel-ridge"));
    BOOST_TEST(json::parse(json_of(values)).at("landmarks") == 4096);
    BOOST_TEST((!ridge.damping && !ridge.bandwidth && !ridge.bandwidth_auto && ridge.metadata && !inputs.overwrite));
    BOOST_TEST(values.of<InfluenceSettings>().member == "gradient");
    const auto plan = parsed(with({"plan"}, needed));
    BOOST_TEST((plan.command == Command::run && plan.plan_only && json_of(plan) == json_of(values)));
    const auto again = parsed({"select", "--result", "r.h5", "--out", "s.h5", "--select", "2.5%"});
    BOOST_TEST((again.command == Command::select && !again.plan_only && again.of<InputSettings>().result == "r.h5"));
    BOOST_TEST((again.of<BudgetSettings>().percent == 2.5));
    BOOST_TEST(json::parse(json_of(again)).at("select") == "2.5%");
    BOOST_TEST(!json::parse(json_of(again)).contains("landmarks"));
    const auto words = run_of<KernelRidgeSettings>({"--damping", "auto", "--bandwidth", "median"});
    BOOST_TEST((!words.damping && !words.bandwidth));
}

BOOST_AUTO_TEST_CASE(by_default_weights_are_chosen_to_second_order_as_far_as_possible) {
    struct Case {
        Words words;
        std::string rule;
        Order order;
    };
    const std::string weighted = "weighted", turns = "round-robin";
    for (const auto& [words, rule, order] :
         {Case{{}, weighted, Order::second},
          {{"--selection", "auto", "--order", "auto"}, weighted, Order::second},
          {{"--lambda", "2"}, weighted, Order::second},
          {{"--lambda", "0"}, weighted, Order::first},
          {{"--order", "first-order"}, weighted, Order::first},
          {{"--columns", "tasks"}, turns, Order::first},
          {{"--select-tokens", "9"}, turns, Order::second},
          {{"--source-cap", "a=1"}, turns, Order::second},
          {{"--columns", "tasks", "--source-share", "a=0.5"}, weighted, Order::first},
          {{"--columns", "tasks", "--max-weight", "9"}, weighted, Order::first},
          {{"--columns", "tasks", "--selection", "weighted"}, weighted, Order::first},
          {{"--columns", "tasks", "--curvature", "hessian", "--learning-rate", "1"}, weighted, Order::second},
          {{"--selection", "top-k"}, "top-k", Order::second}}) {
        const auto values = run(words);
        BOOST_TEST_CONTEXT(json(words).dump()) {
            BOOST_TEST(values.of<SelectionSettings>().member == rule);
            BOOST_TEST((values.of<WeightedSettings>().order == order));
            BOOST_TEST(json::parse(json_of(values)).at("selection") == rule);
            BOOST_TEST(json::parse(json_of(values)).at("order") ==
                       (order == Order::first ? "first-order" : "second-order"));
            BOOST_TEST(contains(to_table(program_options(), values), "  order ") == (rule == "weighted"));
        }
    }
    // `select` learns from the result what its columns are
    auto again = parsed({"select", "--result", "r.h5", "--out", "s.h5"});
    const auto rule = [](const Values& values) { return selection::resolved(values).of<SelectionSettings>().member; };
    BOOST_TEST((again.of<SelectionSettings>().member == "auto" && rule(again) == "weighted"));
    again.of<InputSettings>().columns = options::ColumnKind::tasks;
    BOOST_TEST(rule(again) == "round-robin");
}

BOOST_AUTO_TEST_CASE(embed_makes_one_embedding) {
    const Words needed_here{"embed", "--model", "m", "--pool", "p.h5", "--out", "o.h5"};
    const auto values = parsed(with(needed_here, {"--embedding", "gradient", "--parameters", "q_proj"}));
    BOOST_TEST((values.command == Command::embed && values.of<EmbeddingSettings>().embedding == "gradient"));
    const auto object = json::parse(json_of(values));
    BOOST_TEST((object.contains("parameters") && !object.contains("landmarks") && !object.contains("sketch")));
    BOOST_TEST(!json::parse(identity_of(values)).contains("jvp-rank"));
    for (const std::string embedding : {"auto", "jvp+hidden", "other.h5"})
        BOOST_TEST(contains(refused(with(needed_here, {"--embedding", embedding})).expected,
                            "jvp, hidden, gradient-tail:M with M of at least 1 or gradient"));
    BOOST_TEST(contains(refused(with(needed_here, {"--landmarks", "4"})).remedy, "belongs to a run"));
    BOOST_TEST(refused(with(needed_here, {"--embedding", "hidden", "--parameters", "q"})).field == "--parameters");
    BOOST_TEST(run_refused({"--embedding", "jvp+out.h5"}).field == "--out");
}

BOOST_AUTO_TEST_CASE(an_embedding_of_gradients_goes_by_parameters_whatever_the_influence) {
    const auto with_another = [](Words words) {
        auto values = run(with({"--parameters", "q_proj"}, words));
        values.of<InfluenceSettings>().member = "another";
        return values;
    };
    const auto cause = [](const Values& values, const char* option) {
        return idle(program_options(), values, option).cause;
    };
    const auto used = with_another({"--embedding", "jvp+gradient-tail:1"}), unused = with_another({});
    BOOST_TEST((cause(used, "parameters").empty() && cause(used, "sketch") == "influence"));
    BOOST_TEST(json::parse(identity_of(used)).at("parameters") == "q_proj");
    BOOST_TEST((cause(unused, "parameters") == "influence" && !contains(identity_of(unused), "q_proj")));
    auto exact = used;  // nothing is embedded
    exact.of<PropagationSettings>().member = "none";
    BOOST_TEST(cause(exact, "parameters") == "influence");
}

BOOST_AUTO_TEST_CASE(the_plan_of_embed_takes_the_options_of_embed) {
    const Words options{"--model", "m", "--pool", "p.h5", "--out", "o.h5", "--embedding", "hidden"};
    const auto values = parsed(with({"embed"}, options)), plan = parsed(with({"plan", "embed"}, options));
    BOOST_TEST((values.command == Command::embed && !values.plan_only));
    BOOST_TEST((plan.command == Command::embed && plan.plan_only));
    BOOST_TEST((json_of(plan) == json_of(values) && identity_of(plan) == identity_of(values)));
    BOOST_TEST(
        contains(refused(with({"plan", "embed"}, with(options, {"--landmarks", "4"}))).remedy, "belongs to a run"));
    BOOST_TEST(refused(with({"plan", "embed"}, with(options, {"--parameters", "q"}))).field == "--parameters");
    // the order of the words, and what selects again from a result, needs no plan
    for (const char* command : {"embed", "select"})
        BOOST_TEST(contains(refused(with({command, "plan"}, options)).remedy, "'plan' comes first: idistill_mpi plan"));
    refused({"plan", "select", "--result", "r.h5", "--out", "s.h5"});
}

BOOST_AUTO_TEST_CASE(words_that_leave_a_number_to_the_program) {
    const auto bandwidth = run({"--bandwidth", "auto"});
    BOOST_TEST((bandwidth.of<KernelRidgeSettings>().bandwidth_auto && !bandwidth.of<KernelRidgeSettings>().bandwidth));
    BOOST_TEST(json::parse(json_of(bandwidth)).at("bandwidth") == "auto");
    BOOST_TEST((identity_of(bandwidth) != identity_of(run({"--bandwidth", "median"}))));
    const auto refine = run({"--refine", "auto"});
    BOOST_TEST((!refine.of<PropagationSettings>().refine && refines(refine)));
    BOOST_TEST(json::parse(json_of(refine)).at("refine") == "auto");
    BOOST_TEST((refines(run({"--refine", "1"})) && !refines(run({})) && !refines(run({"--refine", "0"}))));
    BOOST_TEST((!refines(run({"--propagation", "none"})) && !refines(run({"--selection", "random"}))));
}

BOOST_AUTO_TEST_CASE(exact_influence_on_tasks_is_contracted) {
    const auto sketched = [](const Words& words) { return json::parse(identity_of(run(words))).contains("sketch"); };
    BOOST_TEST(!sketched({"--propagation", "none", "--columns", "tasks"}));
    BOOST_TEST((sketched({"--propagation", "none"}) && sketched({"--columns", "tasks"})));
}

BOOST_AUTO_TEST_CASE(the_command_line_counts_over_the_file) {
    const Folder folder;
    const auto file =
        folder.file("run.toml",
                    "model = 'm'\npool = ['p', 'q']\ntarget = ['t=u']\nout = 'o'\nlandmarks = 7\nselect-tokens = 9\n"
                    "embedding = 'jvp'\njvp-rank = 4\n");
    const auto from_file = parsed({"--config", file});
    BOOST_TEST((from_file.of<PropagationSettings>().landmarks == 7 && from_file.of<BudgetSettings>().tokens == 9));
    BOOST_TEST(from_file.of<InputSettings>().pool.size() == 2U);
    const auto both = parsed({"--config", file, "--landmarks", "8", "--select", "3", "--pool", "r"});
    const auto& budget = both.of<BudgetSettings>();
    BOOST_TEST((both.of<PropagationSettings>().landmarks == 8 && budget.samples == 3 && !budget.tokens));
    BOOST_TEST((both.of<InputSettings>().pool == Words{"r"}));
    // a key of the file that the command line makes idle is how variants are run
    BOOST_TEST(parsed({"--config", file, "--embedding", "hidden"}).of<EmbeddingSettings>().embedding == "hidden");
    BOOST_TEST(parsed({"--config", file, "--propagation", "none"}).of<PropagationSettings>().member == "none");
    const auto variant = parsed({"--config", file, "--embedding", "hidden", "--selection", "weighted"});
    BOOST_TEST((variant.of<JvpSettings>().direction_rank == 8 && !variant.of<BudgetSettings>().tokens &&
                variant.of<BudgetSettings>().percent == 5.0),
               "as if it were not there");
}

BOOST_AUTO_TEST_CASE(identity_is_what_decides_the_numbers) {
    const auto identity = [](const Words& words) { return identity_of(run(words)); };
    const std::string standard = identity({});
    const std::set<std::string> without{
        "model",  "pool",          "target",     "out",           "overwrite", "selection", "top-k-by",
        "select", "select-tokens", "source-cap", "stall-timeout", "device",    "dtype",     "order",
        "lambda", "learning-rate", "max-weight", "source-share",  "influence", "held",      "nu",
        "eta",    "similarity",    "greedy",     "neighbours",    "memory"};  // an optimizer makes sketches longer
    for (const auto& one : cases()) {
        BOOST_TEST_CONTEXT(one.name) {
            const bool same =
                identity_of(parsed(with(with(needed_without(one.name), one.also), one.words))) == standard;
            BOOST_TEST(same == without.contains(one.name));
        }
    }
    BOOST_TEST(identity({"--landmarks", "4096"}) == standard);
    BOOST_TEST(
        standard ==
        R"({"bandwidth":"median","batch-tokens":2048,"columns":"samples","contrast":128,"damping":"auto",)"
        R"("device":"cpu","drop-overlap":false,"dtype":"fp32","embedding":"jvp","embedding-dim":4096,"influence":"gradient",)"
        R"("jvp-blocks":4,"jvp-rank":8,"jvp-tangents":2,"landmarks":4096,"metadata":"on","normalize":"cosine",)"
        R"("parameters":"down_proj","propagation":"kernel-ridge","seed":43,"sketch":"tensor",)"
        R"("sketch-dim":98304,"threads":1,"unit-flops":500000000000.0})");
    const auto of_embed = json::parse(
        identity_of(parsed({"embed", "--model", "m", "--pool", "p", "--out", "o", "--embedding", "hidden"})));
    BOOST_TEST((of_embed.at("device") == "cpu" && of_embed.at("embedding") == "hidden"));
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
    const Words second{"--selection", "weighted", "--order", "second-order", "--learning-rate", "1"};
    BOOST_TEST(identity(second) == standard);
    BOOST_TEST(json::parse(identity(with(second, {"--curvature", "hessian"}))).at("curvature-rank") == 16);
    // what has no effect does not stand in the way of a restart
    BOOST_TEST(!json::parse(identity({"--embedding", "hidden"})).contains("jvp-rank"));
    BOOST_TEST(!json::parse(identity({"--propagation", "none"})).contains("landmarks"));
    BOOST_TEST(!json::parse(identity({"--propagation", "none", "--columns", "tasks"})).contains("sketch"));
}

BOOST_AUTO_TEST_SUITE_END()
