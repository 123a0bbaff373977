// A plan made by hand: its hash, what it needs, whether that fits.

#include "idistill/plan/plan.hpp"

#include <functional>
#include <set>

#include "failure_of.hpp"

using namespace idistill;
using namespace idistill::plan;
using namespace idistill::test;

namespace {

/// Everything that a plan can hold, in small.
Plan small_plan() {
    Plan plan;
    plan.decisions.add(7);
    plan.stages = {{.name = "targets",
                    .title = "label targets",
                    .columns = {{"norm", 1}, {"sketch", 12}},
                    .units = {{{0, 2}, 5.0}, {{2, 1}, 3.0}}},
                   {.name = "solve", .title = "solve (rank 0)", .columns = {}, .units = {{{0, 3}, 9.0}}},
                   {.name = "curvature",
                    .title = "curvature",
                    .columns = {{"product", 20}},
                    .units = {{{0, 3}, 4.0}},
                    .keeps = Keeps::repeats,
                    .kept_rows = 2,
                    .repeats = 5}};
    plan.needs = {{.what = "index", .per_rank = 1000.0},
                  {.what = "weights", .per_node = 4000.0},
                  {.what = "activations", .per_rank = 20.0, .remedy = "smaller --batch-tokens", .during = {"targets"}},
                  {.what = "influences",
                   .per_rank = 10.0,
                   .over_ranks = 800.0,
                   .remedy = "--order first-order",
                   .during = {select_step}},
                  {.what = "solve", .on_rank_0 = 300.0, .remedy = "fewer --landmarks", .during = {"solve"}}};
    plan.result = {{"/id", 1000, 32.0}, {"/influence", 1000, 12.0}};
    return plan;
}

const MachineFacts plenty{1e15, 1e15, 1e15};

/// What to change where memory is short, of plans that need most for one thing.
std::string remedy_of(const Plan& plan, const RankLayout& layout = {2, 2}) {
    const auto missing = shortfalls(plan, layout, {1.0, {}, {}});
    BOOST_REQUIRE(missing.size() == 1U);
    return missing[0].remedy;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(plan_plan)

BOOST_AUTO_TEST_CASE(stages_have_names) {
    const auto plan = small_plan();
    BOOST_TEST((plan.find("solve") == &plan.stages[1] && plan.find("pool") == nullptr));
    BOOST_TEST(&plan.stage("curvature") == &plan.stages[2]);
    BOOST_TEST(failure_of(ExitCode::internal_error, [&] { (void)plan.stage("pool"); }).field == "pool");
}

BOOST_AUTO_TEST_CASE(the_hash_follows_everything_that_is_planned) {
    std::set<std::uint64_t> hashes{small_plan().hash()};
    BOOST_TEST(hashes.contains(small_plan().hash()));
    const auto differs = [&hashes](const std::function<void(Plan&)>& change) {
        auto plan = small_plan();
        change(plan);
        return hashes.insert(plan.hash()).second;
    };
    BOOST_TEST(differs([](Plan& p) { p.decisions.add(1); }));
    BOOST_TEST(differs([](Plan& p) { p.stages.pop_back(); }));
    BOOST_TEST(differs([](Plan& p) { std::swap(p.stages[0], p.stages[2]); }));
    BOOST_TEST(differs([](Plan& p) { p.stages[0].name = "target"; }));
    BOOST_TEST(differs([](Plan& p) { p.stages[0].columns[1].name = "sketches"; }));
    BOOST_TEST(differs([](Plan& p) { p.stages[0].columns[1].width = 13; }));
    BOOST_TEST(differs([](Plan& p) { p.stages[0].columns.pop_back(); }));
    BOOST_TEST(differs([](Plan& p) { p.stages[0].units[1].rows.first = 3; }));
    BOOST_TEST(differs([](Plan& p) { p.stages[0].units[1].rows.count = 2; }));
    BOOST_TEST(differs([](Plan& p) { p.stages[0].units[1].flops = 3.5; }));
    BOOST_TEST(differs([](Plan& p) { p.stages[0].units.pop_back(); }));
    BOOST_TEST(differs([](Plan& p) { p.stages[2].keeps = Keeps::units; }));
    BOOST_TEST(differs([](Plan& p) { p.stages[2].kept_rows = 3; }));
    BOOST_TEST(differs([](Plan& p) { p.stages[2].repeats = 6; }));
    // what decides no number
    BOOST_TEST(!differs([](Plan& p) { p.stages[0].title = "targets"; }));
    BOOST_TEST(!differs([](Plan& p) { p.stages[0].units[0].tokens = 9; }));
    BOOST_TEST(!differs([](Plan& p) { p.needs.clear(); }));
    BOOST_TEST(!differs([](Plan& p) { p.result.clear(); }));
    BOOST_TEST(!differs([](Plan& p) { p.notes = {"a note"}; }));
}

BOOST_AUTO_TEST_CASE(a_pass_is_held_in_its_stage) {
    Plan plan;
    plan.add_pass("pool", {150.0, 50.0}, 50.0);
    BOOST_REQUIRE(plan.needs.size() == 2U);
    const auto &activations = plan.needs[0], &rows = plan.needs[1];
    BOOST_TEST((activations.what == "activations of a micro-batch" && activations.per_rank == 200.0));
    BOOST_TEST(activations.remedy == "smaller --batch-tokens");
    BOOST_TEST((rows.what == "rows of a unit" && rows.per_rank == 50.0 && rows.remedy == "smaller --unit-flops"));
    for (const auto& need : plan.needs) BOOST_TEST((need.held_in("pool") && !need.held_in("targets")));
}

BOOST_AUTO_TEST_CASE(needs_are_held_in_some_stages) {
    Need need{.what = "always"};
    BOOST_TEST((need.held_in("targets") && need.held_in(select_step) && need.held_in("")));
    need.except = {"targets"};
    BOOST_TEST((!need.held_in("targets") && need.held_in("pool") && need.held_in("")));
    need.during = {"targets", "pool"};
    BOOST_TEST((!need.held_in("targets") && need.held_in("pool") && !need.held_in("solve") && !need.held_in("")));
}

// 205 MB of the process; holes in the heap are 15 %.
BOOST_AUTO_TEST_CASE(a_rank_holds_what_the_fullest_stage_holds) {
    Plan plan;
    BOOST_TEST(plan.bytes_per_rank(1) == 205e6);
    const auto holds = [&plan](double bytes) {
        BOOST_TEST(plan.bytes_per_rank(1) == 205e6 + 1.15 * bytes, boost::test_tools::tolerance(1e-15));
    };
    plan.needs = {{.what = "index", .per_rank = 1000.0}};
    holds(1000);
    for (const auto& [stage, bytes] :
         std::vector<std::pair<std::string, double>>{{"targets", 200.0}, {"landmarks", 500.0}, {"pool", 300.0}})
        plan.add_pass(stage, {bytes}, 7.0);
    holds(1000 + 500 + 7);
    BOOST_TEST(plan.fullest({1, 1}) == "landmarks");
    plan.needs.push_back({.what = "directions", .per_rank = 250.0, .during = {"targets", "pool"}});
    holds(1000 + 300 + 7 + 250);
    BOOST_TEST(plan.fullest({1, 1}) == "pool");
    plan.needs.push_back({.what = "landmarks", .per_rank = 400.0, .except = {"pool"}});
    holds(1000 + 500 + 7 + 400);
    // what is held outside all that are named counts too
    plan.needs.push_back(
        {.what = "columns", .per_rank = 5000.0, .except = {"targets", "landmarks", "pool", select_step}});
    holds(1000 + 400 + 5000);
    // so does what is held by a step that is no stage, or a stage that no need names
    plan.needs.back() = {.what = "result", .per_rank = 5000.0, .during = {write_step}};
    holds(1000 + 400 + 5000);
    BOOST_TEST(plan.fullest({1, 1}) == write_step);
    plan.needs.back() = {.what = "result", .on_rank_0 = 5000.0, .during = {write_step}};
    holds(1000 + 500 + 7 + 400);
    BOOST_TEST(plan.fullest({10, 10}) == "landmarks");  // 10 x 1907 against 10 x 1400 and 5000
    BOOST_TEST(plan.fullest({1, 1}) == write_step);
}

BOOST_AUTO_TEST_CASE(ranks_share_some_and_multiply_the_rest) {
    const auto plan = small_plan();
    const auto close = boost::test_tools::tolerance(1e-9);
    BOOST_TEST(plan.bytes_per_rank(1) == 205e6 + 1.15 * 1810, close);
    BOOST_TEST(plan.bytes_per_rank(8) == 205e6 + 1.15 * 1110, close);
    BOOST_TEST(plan.bytes_per_rank(100) == 205e6 + 1.15 * 1020, close);  // the targets hold more than 1018
    BOOST_TEST(plan.shared_bytes_per_node() == 4000.0);
    // rank 0 solves while no other rank holds more than the index
    BOOST_TEST(plan.bytes_on_rank_0(1) == 0.0);
    BOOST_TEST(plan.bytes_on_rank_0(8) == 1.15 * (1300 - 1110), close);
    BOOST_TEST(plan.bytes_per_node({8, 4}) == 4000.0 + 4 * (205e6 + 1.15 * 1110) + 1.15 * 190, close);
    BOOST_TEST(plan.bytes_per_node({1, 1}) == 4000.0 + 205e6 + 1.15 * 1810, close);
}

// The overhead of a file, of its groups and of its datasets, with those of marks and checksums, is measured.
BOOST_AUTO_TEST_CASE(files_hold_what_stages_keep_and_the_result) {
    auto plan = small_plan();
    const double targets = 4.0 * 3 * 13 + 2 * 9, curvature = 4.0 * 10 * 20 + 5 * 9;
    BOOST_TEST(plan.state_bytes() == 5300 + 2 * 1100 + targets + 340 * (2 + 2) + curvature + 340 * (1 + 2));
    BOOST_TEST(plan.result_bytes() == 5300 + 1000.0 * (32 + 12) + 340 * 2);
    BOOST_TEST(plan.disk_bytes() == plan.state_bytes() + plan.result_bytes());
    // a group in a group, another of two datasets
    for (const auto* name : {"/landmark/growth/loo", "/column/task", "/column/name"})
        plan.result.push_back({name, 10, 4.0});
    BOOST_TEST(plan.result_bytes() == 5300 + 1000.0 * (32 + 12) + 3 * 40.0 + 340 * 5 + 1100 * 3);
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_is_named_with_a_remedy) {
    auto plan = small_plan();
    plan.disk_remedy = ", or use --columns tasks";
    const RankLayout layout{8, 4};
    BOOST_TEST(shortfalls(plan, layout, plenty).empty());
    BOOST_TEST(shortfalls(plan, layout, {}).empty(), "what is unknown does not stop a run");
    BOOST_CHECK_NO_THROW(check_fits(plan, layout, plenty));

    const auto all = shortfalls(plan, layout, {1000.0, 100.0, 500.0});
    BOOST_REQUIRE(all.size() == 3U);
    BOOST_TEST((all[0].what == "memory of a node" && all[0].needed == plan.bytes_per_node(layout) &&
                all[0].available == 1000.0));
    BOOST_TEST(contains(all[0].remedy, "fewer ranks on a node"));
    BOOST_TEST((all[1].what == "/dev/shm" && all[1].needed == 4000.0 && contains(all[1].remedy, "--shm-size")));
    BOOST_TEST((all[2].what == "disk" && all[2].needed == plan.disk_bytes()));
    BOOST_TEST(all[2].remedy == "Give --out a place on a larger disk, or use --columns tasks.");
    const auto failure = failure_of(ExitCode::too_large, [&] { check_fits(plan, layout, {1e15, 100.0, 1e15}); });
    BOOST_TEST((failure.field == "/dev/shm" && failure.found == "100 B"));
    BOOST_TEST((failure.expected == "at least 4.00 kB free" && failure.remedy == all[1].remedy));
    // a rank that has a node to itself needs no shared memory
    BOOST_TEST(shortfalls(plan, {8, 1}, {1e15, 100.0, 1e15}).empty());
}

BOOST_AUTO_TEST_CASE(a_gpu_holds_what_is_computed_on_it) {
    auto on_cpu = small_plan();
    BOOST_TEST(on_cpu.bytes_on_gpu() == 0.0);
    Plan plan;
    plan.gpu = Gpu{"NVIDIA H100", 8e9, 5e9, 1e14, 2};
    plan.stages = on_cpu.stages;
    plan.needs = {{.what = "index", .per_rank = 1e3}, {.what = "weights", .per_rank = 3e8, .on_gpu = true}};
    plan.add_pass("targets", {3e8, 5e7}, 7.0);  // numbers of 2 bytes, counted with 4, and of 4
    plan.add_pass("curvature", {2e8, 0.0}, 0.0);
    BOOST_TEST(plan.bytes_on_gpu() == gpu_working_bytes + 3e8 + 2e8);
    BOOST_TEST(plan.bytes_per_rank(1) == process_bytes + gpu_process_bytes + heap_factor * (1e3 + 7.0));
    plan.needs.push_back({.what = "solve", .on_rank_0 = 1e6, .during = {"solve"}});
    BOOST_TEST(plan.bytes_on_rank_0(1) == heap_factor * (1e6 - 7.0), boost::test_tools::tolerance(1e-6));
    BOOST_TEST(shortfalls(plan, {1, 1}, plenty).empty());
    plan.gpu->free_bytes = 4.4e9;  // another process has the rest
    const auto missing = shortfalls(plan, {1, 1}, plenty);
    BOOST_REQUIRE(missing.size() == 1U);
    BOOST_TEST(missing[0].what == "memory of a GPU");
    BOOST_TEST((missing[0].needed == 4.5e9 && missing[0].available == 4.4e9));
    BOOST_TEST(missing[0].remedy == "Leave the GPU to this run alone.");
    plan.gpu->bytes = 4.4e9;
    BOOST_TEST(shortfalls(plan, {1, 1}, plenty)[0].remedy == "Use smaller --batch-tokens, or GPUs with more memory.");
}

BOOST_AUTO_TEST_CASE(exactly_enough_fits) {
    const auto plan = small_plan();
    const RankLayout layout{2, 2};
    BOOST_TEST(shortfalls(plan, layout, {plan.bytes_per_node(layout), plan.shared_bytes_per_node(), plan.disk_bytes()})
                   .empty());
}

BOOST_AUTO_TEST_CASE(the_remedy_names_what_takes_most) {
    auto plan = small_plan();
    BOOST_TEST(remedy_of(plan) == "Start fewer ranks on a node, or use --order first-order.");
    BOOST_TEST(remedy_of(plan, {1, 1}) == "Use --order first-order.");
    BOOST_TEST(contains(remedy_of(plan, {64, 4}),
                        "fewer --landmarks"));  // 4 x 22.5 bytes of influences, 4 x 20 of activations
    plan.needs.push_back(
        {.what = "landmarks", .per_rank = 600.0, .remedy = "fewer --landmarks", .except = {select_step}});
    BOOST_TEST(contains(remedy_of(plan, {1, 1}), "fewer --landmarks"));  // 1900 while it solves, 1810 while it selects
    plan.needs.push_back(
        {.what = "sketches", .per_rank = 700.0, .remedy = "a smaller --sketch-dim", .during = {"solve"}});
    BOOST_TEST(contains(remedy_of(plan, {1, 1}), "fewer --landmarks"));  // together with the solve
    plan.needs.back().per_rank = 901.0;
    BOOST_TEST(contains(remedy_of(plan, {1, 1}), "a smaller --sketch-dim"));
    plan.add_pass("targets", {1e6}, 10.0);
    BOOST_TEST(contains(remedy_of(plan), "--batch-tokens"));
    // the largest of all, but not where most is held
    plan.needs = {{.what = "one", .per_rank = 1000.0, .remedy = "less of one", .during = {"targets"}},
                  {.what = "two", .per_rank = 600.0, .remedy = "less of two", .during = {"solve"}},
                  {.what = "three", .per_rank = 500.0, .remedy = "less of three", .during = {"solve"}}};
    BOOST_TEST(remedy_of(plan, {1, 1}) == "Use less of two.");
    plan.needs = {{.what = "index", .per_rank = 1000.0}};  // nothing can be turned down
    BOOST_TEST(remedy_of(plan) == "Start fewer ranks on a node.");
    BOOST_TEST(remedy_of(plan, {1, 1}) == "Use a machine with more memory.");
}

BOOST_AUTO_TEST_SUITE_END()
