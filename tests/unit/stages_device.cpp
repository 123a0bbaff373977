// Which GPU every rank takes, from what ranks say they see.

#include <boost/test/unit_test.hpp>

#include "../../src/influence/less/settings.hpp"
#include "../../src/stages/device.hpp"
#include "failure_of.hpp"
#include "idistill/influence/settings.hpp"
#include "stages_support.hpp"

using namespace idistill;
using namespace idistill::test;
using stages::assigned_gpus;
using stages::SeenGpus;

namespace {

const std::string h100 = "NVIDIA H100 80GB HBM3";

SeenGpus sees(const std::string& host, const std::vector<std::string>& uuids, const std::string& name = h100) {
    return {host, uuids, std::vector<std::string>(uuids.size(), name), uuids.empty() ? "no GPU is visible" : ""};
}

Failure refused(const std::vector<SeenGpus>& all) {
    return failure_of(ExitCode::usage, [&] { assigned_gpus(all); });
}

}  // namespace

BOOST_AUTO_TEST_SUITE(stages_device)

BOOST_AUTO_TEST_CASE(ranks_of_a_node_take_its_gpus_in_turn) {
    const auto a = sees("a", {"1", "2"}), b = sees("b", {"3", "4"});
    BOOST_TEST((assigned_gpus({a, a, b, b}) == std::vector<std::size_t>{0, 1, 0, 1}));
    BOOST_TEST((assigned_gpus({a, b, a, b}) == std::vector<std::size_t>{0, 0, 1, 1}));
    BOOST_TEST((assigned_gpus({a}) == std::vector<std::size_t>{0}));
}

// With --gpus-per-task 1 every rank calls its only GPU number 0.
BOOST_AUTO_TEST_CASE(ranks_that_see_one_gpu_take_that) {
    BOOST_TEST((assigned_gpus({sees("a", {"1"}), sees("a", {"2"})}) == std::vector<std::size_t>{0, 0}));
}

BOOST_AUTO_TEST_CASE(no_two_ranks_share_a_gpu) {
    const auto more_ranks = refused({sees("a", {"1", "2"}), sees("a", {"1", "2"}), sees("a", {"1", "2"})});
    BOOST_TEST(contains(more_ranks.where, "--device cuda"));
    BOOST_TEST(more_ranks.field == "rank 2 on a");
    BOOST_TEST(more_ranks.remedy.find("as many ranks on a node as it has GPUs") != std::string::npos);
    BOOST_TEST(refused({sees("a", {"1"}), sees("a", {"1"})}).found.find("taken") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_rank_without_one_says_why) {
    const auto none = refused({sees("a", {"1"}), sees("b", {})});
    BOOST_TEST(none.field == "rank 1 on b");
    BOOST_TEST(none.found == "no GPU is visible");
    BOOST_TEST(none.remedy.find("--device cpu") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(gpus_are_of_one_model) {
    const auto other = refused({sees("a", {"1"}), sees("b", {"2"}, "NVIDIA A100-SXM4-80GB")});
    BOOST_TEST(other.expected == h100);
    BOOST_TEST(other.found == "NVIDIA A100-SXM4-80GB");
}

// Where it is false, --device auto takes no GPU.
BOOST_AUTO_TEST_CASE(runs_of_files_alone_run_no_model) {
    auto values = stages_test::small_values();
    BOOST_TEST(stages::runs_model(values));  // gradients
    auto& influence = values.of<influence::InfluenceSettings>().member;
    auto& propagation = values.of<propagation::PropagationSettings>().member;
    influence = "delift-se";
    BOOST_TEST(stages::runs_model(values));  // embeddings of the samples by the model
    propagation = "none";
    BOOST_TEST(!stages::runs_model(values));
    influence = "less";
    BOOST_TEST(stages::runs_model(values));
    // Of weights of its own alone.
    values.of<influence::LessSettings>().checkpoints = {{"warm", 1.0}};
    BOOST_TEST(stages::runs_model(values));
    values.command = options::Command::embed;
    BOOST_TEST(stages::runs_model(values));
    values.command = options::Command::select;
    BOOST_TEST(!stages::runs_model(values));
}

BOOST_AUTO_TEST_CASE(libraries_are_the_same_everywhere) {
    const std::string fused = "LibTorch 2.15.0, fused kernels 1", plain = "LibTorch 2.15.0, PyTorch's operations";
    BOOST_CHECK_NO_THROW(stages::check_libraries({plain}));
    BOOST_CHECK_NO_THROW(stages::check_libraries({fused, fused}));
    const auto other = failure_of(ExitCode::usage, [&] { stages::check_libraries({fused, fused, plain}); });
    BOOST_TEST((other.field == "libraries of rank 2" && other.found == plain && contains(other.expected, fused)));
    BOOST_TEST(contains(other.remedy, "libidistill_cuda.so"));
}

BOOST_AUTO_TEST_SUITE_END()
