// What this machine has left, from files that a test can write.

#include <boost/test/unit_test.hpp>

#include "idistill/base/machine_facts.hpp"
#include "temporary_folder.hpp"

using namespace idistill;
using idistill::test::TemporaryFolder;

BOOST_AUTO_TEST_SUITE(machine_facts)

BOOST_AUTO_TEST_CASE(facts_of_this_machine) {
    const TemporaryFolder folder;
    const auto facts = read_machine_facts(folder.path() + "/not/yet/there/out.h5");
    BOOST_TEST((facts.free_memory_bytes && *facts.free_memory_bytes > 1e6));
    BOOST_TEST((facts.free_disk_bytes && *facts.free_disk_bytes > 0.0));
    BOOST_TEST(read_machine_facts("out.h5").free_disk_bytes.has_value());
}

BOOST_AUTO_TEST_CASE(free_memory_is_what_every_limit_leaves) {
    const TemporaryFolder folder;
    const auto write = [&folder](const std::string& name, const std::string& content) { folder.file(name, content); };
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
