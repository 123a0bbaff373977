// Whether a run fits, what this machine has, and what is said about it.

#include "config_resources_support.hpp"

using namespace config_test;

BOOST_AUTO_TEST_SUITE(config_shortfalls)

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
    large.embedding_bytes_per_rank = 1e15;
    BOOST_TEST(contains(shortfalls(run.settings, large, {1e6, {}, {}})[0].remedy, "--embedding-dim"));
    auto dense = run.settings;
    dense.jvp_rank = 0;
    BOOST_TEST(contains(shortfalls(dense, large, {1e6, {}, {}})[0].remedy, "--jvp-rank"));
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
          "assuming 60 GFLOP/s", "no stage has more than 2 work units:", "/dev/shm", "This run fits."}) {
        BOOST_TEST(contains(text, part), part);
    }
    const auto tight = describe(run.settings, plan, run.needs({64, 32}), {1e6, 10.0, {}});
    for (const char* part :
         {"TOO LITTLE", "free: unknown", "This run does not fit", "memory of a node", "Start fewer ranks"}) {
        BOOST_TEST(contains(tight, part), part);
    }
    run.settings.landmarks.reset();
    BOOST_TEST(contains(describe(run.settings, run.plan(), run.needs(), plenty), "landmarks 999 (all eligible"));
    run.settings.propagation = "none";
    const auto exact = describe(run.settings, run.plan(), run.needs(), plenty);
    BOOST_TEST((contains(exact, "label pool") && !contains(exact, "landmarks 100") && !contains(exact, "solve (") &&
                !contains(exact, "task gradients")));
    run.contract();
    BOOST_TEST(contains(describe(run.settings, run.plan(), run.needs(), plenty), "task gradients"));
}

BOOST_AUTO_TEST_CASE(a_selection_from_a_result_needs_its_influences) {
    Settings settings;
    settings.command = Command::select;
    settings.selection = "weighted";
    settings.influence = "second-order";
    settings.select_percent = 5.0;
    const auto needs = [&settings](std::int64_t curvature, bool with_optimizer = false) {
        return estimate_selection(settings, {1 << 20, 200, curvature, with_optimizer, 7e9}, {4, 2});
    };
    const double rows = 262144 + 1024;  // of a rank, whole blocks
    const double kept = 52429;          // 5 %
    BOOST_TEST(needs(0).selection_bytes_per_rank == (rows + kept) * (24 + 4 * 200));
    BOOST_TEST(needs(3).selection_bytes_per_rank == (rows + kept) * (24 + 4 * 3));
    BOOST_TEST(needs(3, true).selection_bytes_per_rank == needs(3).selection_bytes_per_rank);
    settings.learning_rate = 0.1;  // with it an optimizer's constant part counts
    BOOST_TEST(needs(3, true).selection_bytes_per_rank == needs(3).selection_bytes_per_rank + rows * 16);
    BOOST_TEST(needs(0).disk_bytes() == 7e9);
    const double node = needs(0).bytes_per_node();
    BOOST_TEST(shortfalls(settings, needs(0), {node, {}, 7e9}).empty());
    const auto failure = failure_of(ExitCode::too_large, [&] {
        check_fits(settings, needs(0), {node - 1.0, {}, 7e9});
    });
    BOOST_TEST(contains(failure.remedy, "--influence first-order"));
    BOOST_TEST(shortfalls(settings, needs(0), {node, {}, 6e9}).front().what == "disk");
    settings.selection = "round-robin";
    BOOST_TEST(needs(0).selection_bytes_per_rank == 0.0);
}

BOOST_AUTO_TEST_CASE(facts_of_this_machine) {
    const Folder folder;
    const auto facts = read_machine_facts(folder.path() + "/not/yet/there/out.h5");
    BOOST_TEST((facts.free_memory_bytes && *facts.free_memory_bytes > 1e6));
    BOOST_TEST((facts.free_disk_bytes && *facts.free_disk_bytes > 0.0));
    BOOST_TEST(read_machine_facts("out.h5").free_disk_bytes.has_value());
}

BOOST_AUTO_TEST_CASE(free_memory_is_what_every_limit_leaves) {
    const Folder folder;
    const auto write = [&folder](const std::string& name, const std::string& content) {
        BOOST_TEST(!folder.file(name, content).empty());
    };
    BOOST_TEST(!read_free_memory(folder.path()).has_value());
    write("proc/meminfo", "MemTotal: 9000 kB\nMemFree:  5 kB\nMemAvailable:    4000 kB\nHugePages_Total: 0\n");
    BOOST_TEST((read_free_memory(folder.path()) == 4096000.0));

    const std::string job = "sys/fs/cgroup/user.slice/job:1/";
    write("proc/self/cgroup", "0::/user.slice/job:1\n");
    write(job + "memory.max", "max\n");
    write(job + "memory.current", "700000\n");
    BOOST_TEST((read_free_memory(folder.path()) == 4096000.0), "no limit");
    write("sys/fs/cgroup/user.slice/memory.max", "3000000\n");
    write("sys/fs/cgroup/user.slice/memory.current", "1000000\n");
    BOOST_TEST((read_free_memory(folder.path()) == 2000000.0), "the limit of a group above");
    write("sys/fs/cgroup/user.slice/memory.stat", "anon 5\nactive_file 7\ninactive_file 500000\n");
    BOOST_TEST((read_free_memory(folder.path()) == 2500000.0), "cache counts as free");
    write(job + "memory.max", "1500000\n");
    BOOST_TEST((read_free_memory(folder.path()) == 800000.0));
    write(job + "memory.max", "600000\n");
    BOOST_TEST((read_free_memory(folder.path()) == 0.0), "lowered below what is used");

    // version 1; a container that shows its own group as the uppermost, under the host's name for it
    write("proc/self/cgroup", "12:cpu,cpuacct:/x\n4:hugetlb,memory:/docker/abc\n1:name=systemd:/docker/abc\n0::/y\n");
    const std::string top = "sys/fs/cgroup/memory/";
    write(top + "memory.limit_in_bytes", "2000000\n");
    write(top + "memory.usage_in_bytes", "1500000\n");
    write(top + "memory.stat", "inactive_file 1\ntotal_inactive_file 250000\n");
    BOOST_TEST((read_free_memory(folder.path()) == 750000.0));
    write(top + "docker/abc/memory.limit_in_bytes", "9223372036854771712\n");  // none
    write(top + "docker/abc/memory.usage_in_bytes", "1\n");
    BOOST_TEST((read_free_memory(folder.path()) == 750000.0));
    // a group outside what the process can see
    write("proc/self/cgroup", "4:memory:/../../abc\nnonsense\n");
    BOOST_TEST((read_free_memory(folder.path()) == 750000.0));
    write("proc/self/cgroup", "3:memory_of_another_kind:/\n");
    BOOST_TEST((read_free_memory(folder.path()) == 4096000.0));
}

BOOST_AUTO_TEST_SUITE_END()
