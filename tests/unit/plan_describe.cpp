// The text of `idistill_mpi plan`.

#include <algorithm>

#include "failure_of.hpp"
#include "idistill/plan/plan.hpp"

using namespace idistill;
using namespace idistill::plan;
using namespace idistill::test;

namespace {

constexpr double second = assumed_flops_per_second;
const MachineFacts plenty{1e15, 1e15, 1e15};

/// The line of the text that begins so, with single spaces; empty if there is none.
std::string line_of(const std::string& text, const std::string& begin) {
    const auto first = text.find("\n  " + begin);
    if (first == std::string::npos) return {};
    auto line = text.substr(first + 3, text.find('\n', first + 1) - first - 3);
    line.erase(std::unique(line.begin(), line.end(), [](char a, char b) { return a == ' ' && b == ' '; }), line.end());
    return line;
}

/// Three units of 60 seconds together, once each, and as a stage whose repeats wait for each other.
Plan timed_plan() {
    const std::vector<data::WorkUnit> units{{{0, 4}, 10 * second}, {{4, 1}, 25 * second}, {{5, 3}, 25 * second}};
    Plan plan;
    plan.notes = {"pool 1000 samples", "landmarks 100"};
    plan.stages = {{.name = "pool", .title = "propagate", .columns = {{"influence", 3}}, .units = units},
                   {.name = "curvature",
                    .title = "curvature",
                    .columns = {{"product", 9}},
                    .units = units,
                    .keeps = Keeps::repeats,
                    .repeats = 4},
                   {.name = "refine", .title = "refine", .columns = {}, .units = {{{0, 150}, 1.0}}, .at_most = true}};
    plan.needs = {{.what = "index", .per_rank = 2e8},
                  {.what = "weights", .per_node = 4e9},
                  {.what = "influences", .over_ranks = 6.4e9, .during = {select_step}},
                  {.what = "solve", .on_rank_0 = 5e8, .during = {"solve"}}};
    plan.add_pass("pool", {8e7}, 0.0);
    plan.add_pass("curvature", {5e7}, 3e6);
    plan.result = {{"/influence", 1000, 12.0}};
    return plan;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(plan_describe)

BOOST_AUTO_TEST_CASE(a_stage_lasts_its_share_or_its_largest_unit) {
    const auto plan = timed_plan();
    const auto of = [&plan](int ranks) { return line_of(describe(plan, {ranks, 1}, plenty), "propagate"); };
    BOOST_TEST(of(1) == "propagate 8 3 1.5e+12 3.6e+12 60 s");
    BOOST_TEST(of(2) == "propagate 8 3 1.5e+12 3.6e+12 30 s");
    BOOST_TEST(of(64) == "propagate 8 3 1.5e+12 3.6e+12 25 s");
}

// r products one after the other: each as long as its share or its largest unit, not all of them as one pool of work,
// which 4 ranks would do in 60 seconds.
BOOST_AUTO_TEST_CASE(repeats_wait_for_each_other) {
    const auto plan = timed_plan();
    const auto of = [&plan](int ranks) { return line_of(describe(plan, {ranks, 1}, plenty), "curvature"); };
    BOOST_TEST(of(1) == "curvature 8 4 x 3 1.5e+12 1.44e+13 4 min");
    BOOST_TEST(of(2) == "curvature 8 4 x 3 1.5e+12 1.44e+13 2 min");
    BOOST_TEST(of(4) == "curvature 8 4 x 3 1.5e+12 1.44e+13 100 s");
    BOOST_TEST(of(64) == "curvature 8 4 x 3 1.5e+12 1.44e+13 100 s");
    BOOST_TEST(contains(describe(plan, {64, 1}, plenty), "together about 2 min with 64 ranks, assuming 60 GFLOP/s"));
    BOOST_TEST(contains(describe(plan, {1, 1}, plenty), "together about 5 min with 1 rank, assuming"));
}

BOOST_AUTO_TEST_CASE(stages_and_units) {
    const auto plan = timed_plan();
    const auto text = describe(plan, {64, 32}, plenty);
    for (const char* part : {"Plan\n  pool 1000 samples\n  landmarks 100\nWork\n", "(jobs/bench.sh measures it)",
                             "no stage has more than 3 work units: further ranks would idle", "This run fits.\n"})
        BOOST_TEST(contains(text, part), part);
    BOOST_TEST(line_of(text, "refine") == "refine, at most 150 1 1 1 under 1 s");
    BOOST_TEST(!contains(describe(plan, {3, 1}, plenty), "further ranks"));
    auto one = plan;
    one.stages.erase(one.stages.begin(), one.stages.begin() + 2);
    BOOST_TEST(contains(describe(one, {2, 1}, plenty), "no stage has more than 1 work unit: further"));
}

BOOST_AUTO_TEST_CASE(long_times_are_in_hours) {
    auto plan = timed_plan();
    plan.stages[0].units[0].flops = 7200 * second;
    BOOST_TEST(contains(line_of(describe(plan, {64, 1}, plenty), "propagate"), "2.0 h"));
    plan.stages[0].units[0].flops = 7199 * second;
    BOOST_TEST(contains(line_of(describe(plan, {64, 1}, plenty), "propagate"), "120 min"));
}

BOOST_AUTO_TEST_CASE(memory_and_disk_beside_what_is_there) {
    const auto plan = timed_plan();
    const auto text = describe(plan, {64, 32}, {1e12, 2e10, {}});
    BOOST_TEST(contains(text, "Memory of one rank\n"));
    BOOST_TEST(line_of(text, "program") == "program and libraries 205 MB");
    BOOST_TEST(line_of(text, "index") == "index 200 MB");
    BOOST_TEST(line_of(text, "influences") == "influences 100 MB during: select");  // a 64th
    BOOST_TEST(line_of(text, "activations") == "activations of a micro-batch 80.0 MB during: propagate");
    BOOST_TEST(line_of(text, "rows") == "rows of a unit 3.00 MB during: curvature");
    // 205 MB and 1.15 times 300 MB
    BOOST_TEST(line_of(text, "together  ") == "together 550 MB the most at a time, in: select");
    BOOST_TEST(contains(text, "Memory of one node with 32 ranks\n"));
    BOOST_TEST(line_of(text, "weights") == "weights 4.00 GB of 20.0 GB free");
    BOOST_TEST(line_of(text, "solve") == "solve, on the node of rank 0 460 MB");  // 1.15 x (700 - 300)
    const auto node = text.substr(text.find("Memory of one node"));
    BOOST_TEST(line_of(node, "together") == "together 22.1 GB of 1.00 TB free");
    // a file 5,300 bytes, a group 1,100, a dataset 340; 8 rows of 3 numbers and 3 units, 4 rows of 9 and 4 units of 9
    const auto disk = text.substr(text.find("Disk\n"));
    BOOST_TEST(line_of(disk, "state") == "state, until the result is there 9.84 kB");
    BOOST_TEST(line_of(disk, "result") == "result 17.6 kB");
    BOOST_TEST(line_of(disk, "together") == "together 27.5 kB free: unknown");
    BOOST_TEST(contains(describe(plan, {1, 1}, plenty), "Memory of one node with 1 rank\n"));
    // alone it holds 6.6 GB while it selects, so the solve adds nothing
    BOOST_TEST(line_of(describe(plan, {1, 1}, plenty), "solve") == "");
    auto empty = plan;
    empty.needs.clear();
    BOOST_TEST(line_of(describe(empty, {1, 1}, plenty), "together  ") == "together 205 MB the most at a time");
}

BOOST_AUTO_TEST_CASE(a_gpu_has_a_memory_and_a_speed_of_its_own) {
    auto plan = timed_plan();
    plan.gpu = Gpu{"NVIDIA H100", 8e10, 7.5e10, 100 * assumed_flops_per_second, 2};
    plan.needs.push_back({.what = "directions", .per_rank = 3e9, .on_gpu = true});
    const auto text = describe(plan, {64, 32}, plenty);
    BOOST_TEST(line_of(text, "propagate") == "propagate 8 3 1.5e+12 3.6e+12 under 1 s");
    BOOST_TEST(
        contains(text, "assuming 6000 GFLOP/s a rank (a share of its GPU's products of matrices, measured now)"));
    const auto gpu = text.substr(text.find("Memory of one NVIDIA H100\n"));
    BOOST_TEST(line_of(gpu, "directions") == "directions 3.00 GB");
    BOOST_TEST(line_of(gpu, "together") ==
               "together 7.08 GB of 75.0 GB free, 80.0 GB in all");  // 4 GB of work, 80 MB
    const auto rank = text.substr(text.find("Memory of one rank\n"));
    BOOST_TEST(line_of(rank, "activations") == "");
    BOOST_TEST(line_of(rank, "directions") == "");
    BOOST_TEST(line_of(rank, "program") == "program and libraries 1.71 GB");  // 1.5 GB of them CUDA's
}

BOOST_AUTO_TEST_CASE(what_is_short_is_said_twice) {
    const auto text = describe(timed_plan(), {64, 32}, {1e6, 10.0, {}});
    for (const char* part :
         {"of 1.00 MB free: TOO LITTLE", "free: unknown",
          "This run does not fit:\n  memory of a node: needs 22.1 GB, 1.00 MB free. Start fewer ranks",
          "\n  /dev/shm: needs 4.00 GB, 10 B free. Make /dev/shm larger"})
        BOOST_TEST(contains(text, part), part);
    BOOST_TEST(line_of(text, "weights") == "weights 4.00 GB of 10 B free: TOO LITTLE");
    BOOST_TEST(!contains(text, "This run fits"));
}

BOOST_AUTO_TEST_SUITE_END()
