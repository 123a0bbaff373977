// What a run needs, whether it fits, and what is said about it.

#include "config_support.hpp"
#include "idistill/config/resources.hpp"

using namespace config_test;

namespace {

struct Run {
    Settings settings = tiny_settings();
    data::CorpusIndex pool = corpus(std::vector<Sample>(1000, {20, 5}));
    data::CorpusIndex targets = corpus({{9, 3}, {8, 2}, {7, 1}});

    Run() { settings.landmarks = 100; }
    [[nodiscard]] Plan plan() const {
        return make_plan(settings, tiny_model(), {pool, {{pool.size(), 0}}}, {targets, {{2, 0}, {1, 0}}});
    }
    [[nodiscard]] Resources needs(RankLayout layout = {}) const {
        return estimate(settings, tiny_model(), plan(), layout);
    }
};

const MachineFacts plenty{1e15, 1e15, 1e15};

}  // namespace

BOOST_AUTO_TEST_SUITE(config_resources)

BOOST_AUTO_TEST_CASE(flops_are_those_of_the_units) {
    const Run run;
    const auto plan = run.plan();
    const auto needs = run.needs();
    const CostModel cost(tiny_model(), run.settings);
    BOOST_TEST(needs.landmark_flops == 100.0 * (cost.gradient(19, 5) + cost.scores(3) + cost.embedding(20)));
    BOOST_TEST(needs.pool_flops == 1000.0 * (cost.embedding(20) + cost.propagation(100, 3)));
    BOOST_TEST(needs.target_flops == cost.gradient(8, 3) + cost.gradient(7, 2) + cost.gradient(6, 1));
}

BOOST_AUTO_TEST_CASE(bytes_that_are_exact) {
    const Run run;
    const auto needs = run.needs();
    // by hand: embedding and head 2 * 40, 3 blocks of q 16, k 8, v 8, o 16, gate 24, up 24, down 24 and two norms of 4,
    // final norm 4
    BOOST_TEST(needs.weight_bytes_per_node == 4.0 * (80 + 3 * (120 + 8) + 4));
    // targets: sketch of 12 and norm; landmarks: three columns, norm, embedding of 8; pool: three columns, norm; one
    // unit each task, stage
    BOOST_TEST(needs.state_file_bytes == 4.0 * (3 * 13 + 100 * 12 + 1000 * 4) + 4.0 * 9.0);
    BOOST_TEST(needs.disk_bytes() == needs.state_file_bytes + needs.result_file_bytes);
    BOOST_TEST(needs.result_file_bytes >= 1000.0 * 4 * (1 + 3 + 2 + 1));
}

BOOST_AUTO_TEST_CASE(what_grows_with_what) {
    const Run base;
    const auto needs = base.needs();
    const auto changed = [](auto change) {
        Run run;
        change(run);
        return run.needs();
    };
    BOOST_TEST(changed([](Run& r) { r.settings.batch_tokens *= 4; }).activation_bytes_per_rank >
               needs.activation_bytes_per_rank);
    BOOST_TEST(changed([](Run& r) { r.pool.tokens[5] = 100000; }).activation_bytes_per_rank >
               needs.activation_bytes_per_rank);
    BOOST_TEST(changed([](Run& r) { r.settings.landmarks = 200; }).solve_bytes_on_rank_0 >
               3.9 * needs.solve_bytes_on_rank_0);
    BOOST_TEST(changed([](Run& r) { r.settings.landmarks = 200; }).solve_flops == 8.0 * needs.solve_flops);
    BOOST_TEST(changed([](Run& r) { r.settings.sketch_dim = 48; }).sketch_bytes_per_rank > needs.sketch_bytes_per_rank);
    BOOST_TEST(changed([](Run& r) { r.settings.columns = "tasks"; }).result_file_bytes < needs.result_file_bytes);
    const auto exact = changed([](Run& r) { r.settings.propagation = "none"; });
    BOOST_TEST(
        (exact.solve_bytes_on_rank_0 == 0.0 && exact.landmark_bytes_per_rank == 0.0 && exact.solve_flops == 0.0));
    // ranks share the weights and multiply the rest
    const auto many = base.needs({64, 32});
    BOOST_TEST(many.bytes_per_node() - needs.bytes_per_node() == 31.0 * needs.bytes_per_rank(),
               boost::test_tools::tolerance(1e-12));
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_is_named_with_a_remedy) {
    const Run run;
    const auto needs = run.needs({8, 4});
    BOOST_TEST(shortfalls(run.settings, needs, plenty).empty());
    BOOST_TEST(shortfalls(run.settings, needs, {}).empty(), "what is unknown does not stop a run");
    BOOST_CHECK_NO_THROW(check_fits(run.settings, needs, plenty));

    const auto all = shortfalls(run.settings, needs, {1e6, 100.0, 1000.0});
    BOOST_REQUIRE(all.size() == 3U);
    BOOST_TEST(
        (all[0].what == "memory of a node" && all[0].needed == needs.bytes_per_node() && all[0].available == 1e6));
    BOOST_TEST(contains(all[0].remedy, "fewer ranks on a node"));
    BOOST_TEST((all[1].what == "/dev/shm" && all[1].needed == needs.weight_bytes_per_node &&
                contains(all[1].remedy, "--shm-size")));
    BOOST_TEST((all[2].what == "disk" && contains(all[2].remedy, "--columns tasks")));
    const auto failure = failure_of(ExitCode::too_large, [&] { check_fits(run.settings, needs, {1e15, 100.0, 1e15}); });
    BOOST_TEST((failure.field == "/dev/shm" && failure.found == "100 B"));

    // the remedy names what takes most
    Resources large = needs;
    large.landmark_bytes_per_rank = 1e12;
    BOOST_TEST(contains(shortfalls(run.settings, large, {1e6, {}, {}})[0].remedy, "--landmarks"));
    large.sketch_bytes_per_rank = 1e13;
    BOOST_TEST(contains(shortfalls(run.settings, large, {1e6, {}, {}})[0].remedy, "--sketch-dim"));
    large.activation_bytes_per_rank = 1e14;
    BOOST_TEST(contains(shortfalls(run.settings, large, {1e6, {}, {}})[0].remedy, "--batch-tokens"));
}

BOOST_AUTO_TEST_CASE(exactly_enough_fits) {
    const Run run;
    const auto needs = run.needs();
    BOOST_TEST(
        shortfalls(run.settings, needs, {needs.bytes_per_node(), needs.weight_bytes_per_node, needs.disk_bytes()})
            .empty());
}

BOOST_AUTO_TEST_CASE(description) {
    Run run;
    run.pool.tokens[0] = 0;
    run.pool.labels[0] = 0;
    const auto plan = run.plan();
    const auto text = describe(run.settings, plan, run.needs({64, 32}), plenty);
    for (const char* part :
         {"pool 1000 samples, targets 3 samples in 2 tasks, 3 influence columns", "landmarks 100, embedding of 8",
          "pool quarantined: 1, empty", "label targets", "label landmarks", "solve (rank 0)", "propagate", "64 ranks",
          "assuming 60 GFLOP/s", "no stage has more than 1 work unit:", "/dev/shm", "This run fits."}) {
        BOOST_TEST(contains(text, part), part);
    }
    const auto tight = describe(run.settings, plan, run.needs({64, 32}), {1e6, 10.0, {}});
    for (const char* part :
         {"TOO LITTLE", "free: unknown", "This run does not fit", "memory of a node", "Start fewer ranks"}) {
        BOOST_TEST(contains(tight, part), part);
    }
    run.settings.propagation = "none";
    const auto exact = describe(run.settings, run.plan(), run.needs(), plenty);
    BOOST_TEST((contains(exact, "label pool") && !contains(exact, "landmarks 100") && !contains(exact, "solve (")));
}

BOOST_AUTO_TEST_CASE(facts_of_this_machine) {
    const Folder folder;
    const auto facts = read_machine_facts(folder.path() + "/not/yet/there/out.h5");
    BOOST_TEST((facts.free_memory_bytes && *facts.free_memory_bytes > 1e6));
    BOOST_TEST((facts.free_disk_bytes && *facts.free_disk_bytes > 0.0));
    BOOST_TEST(read_machine_facts("out.h5").free_disk_bytes.has_value());
}

BOOST_AUTO_TEST_SUITE_END()
