// What the network plans: stages, FLOPs and bytes.

#include <boost/test/unit_test.hpp>

#include "failure_of.hpp"
#include "idistill/embedding/settings.hpp"
#include "idistill/propagation/influence_network.hpp"
#include "idistill/propagation/propagation.hpp"
#include "idistill/propagation/settings.hpp"
#include "planning.hpp"

using namespace idistill;
using namespace idistill::propagation;
using namespace idistill::test;
using options::Values;

namespace {

Values network_of(const std::string& embedding = "jvp") {
    Values values;
    values.of<PropagationSettings>().member = "network";
    values.of<embedding::EmbeddingSettings>().embedding = embedding;
    values.of<embedding::EmbeddingSettings>().jvp_blocks = 2;
    values.of<NetworkSettings>().width = 10;
    return values;
}

struct Planned {
    std::unique_ptr<Propagation> propagation;
    plan::Plan plan;
};

/// Three targets, on which there is a column each; with a norm beside it.
Planned planned(const Values& values, std::vector<std::int64_t> counts = {100}, bool norm = true) {
    Planning planning;
    auto propagation = make_propagation(values);
    influence::Layout layout{.columns = 3, .extras = {}};
    if (norm) layout.extras.push_back({.dataset = "/gradient_norm", .width = 1, .logarithmic = true});
    propagation->plan(planning.planner, layout, counts);
    return {std::move(propagation), planning.plan};
}

double on_rank_0(const plan::Plan& plan, const std::string& stage) {
    double sum = 0.0;
    for (const auto& need : plan.needs)
        if (need.held_in(stage)) sum += need.on_rank_0;
    return sum;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(propagation_network_plan)

BOOST_AUTO_TEST_CASE(an_epoch_is_a_repeat_that_the_state_keeps) {
    const auto one = planned(network_of());
    BOOST_TEST(one.propagation->width() == 8);
    const NetworkShape pairs{.embedding = 8, .width = 10}, samples{.embedding = 8, .width = 10, .pairs = false};
    const auto parameters = 16.0 * 10 + 10 + 10 + 1;
    BOOST_TEST(static_cast<double>(pairs.parameters()) == parameters);
    const auto& stage = one.plan.stage("network");
    // parameters and two moments, two errors; checksum and mark
    BOOST_TEST(stage.stored_bytes() == 20.0 * (4 * (3 * parameters + 2) + 9));
    // 300 pairs, five batches, so 100 passes for 500: the first layer forward and the gradient of its weights; the second also that of its input
    BOOST_TEST(pairs.learning_flops() == 2.0 * 2 * 16 * 10 + 3 * 2 * 10);
    BOOST_TEST(stage.flops() == 20.0 * 100 * 300 * pairs.learning_flops());
    BOOST_TEST(one.plan.stage("sample_network").flops() == 20.0 * 250 * 100 * samples.learning_flops());
    const auto& targets = one.plan.stage("target_embeddings");
    BOOST_TEST((targets.places() == 3 && targets.stored_bytes() == 4.0 * 3 * 8 + 9.0));
    BOOST_TEST(planned(network_of(), {100}, false).plan.find("sample_network") == nullptr);
    const auto several = planned(network_of(), {25, 50, 100});
    BOOST_TEST(several.plan.stage("network").repeats == 60);
}

BOOST_AUTO_TEST_CASE(a_budget_of_pairs_is_less_to_learn) {
    auto values = network_of();
    values.of<NetworkSettings>().pairs = 50;
    // one batch a pass, against five: 500 passes an epoch, against 100
    BOOST_TEST(planned(values).plan.stage("network").flops() ==
               planned(network_of()).plan.stage("network").flops() * (50.0 * 500.0) / (300.0 * 100.0));
    values.of<NetworkSettings>().pairs = 5000;
    BOOST_TEST(planned(values).plan.stage("network").flops() == planned(network_of()).plan.stage("network").flops());
}

BOOST_AUTO_TEST_CASE(a_prediction_is_two_halves_and_a_sum_a_pair) {
    const auto one = planned(network_of()).propagation;
    // the half of a sample, three pairs of ten units, and the network of the sample alone
    BOOST_TEST(one->prediction_flops(6, 1) - one->feature_flops(6, 1) ==
               2.0 * 8 * 10 + 3 * (2.0 * 10 + 2.0 * 10) + (2.0 * 8 * 10 + 2.0 * 10));
    const plan::Batch batch{.rows = 60, .tokens = 700, .samples = 40, .labels = 90, .longest = 50};
    // rows of the embedding, of a unit and of a micro-batch; side by side; three columns and the norm twice; halves
    BOOST_TEST(one->unit_bytes(batch) == 4.0 * (8 * (60 + 40) + 60 * (8 + 2 * 4 + 2 * 10)));
}

BOOST_AUTO_TEST_CASE(bytes_of_labels_and_of_learning) {
    const auto one = planned(network_of());
    // embeddings of 100, what is known of them twice; embeddings of three targets and of their columns, and halves
    BOOST_TEST(bytes_per_rank(one.plan, "landmarks") == 4.0 * (100 * (8 + 2 * 4) + (3 + 3) * 8 + 3 * 10));
    BOOST_TEST((on_rank_0(one.plan, "network") > 0.0 && on_rank_0(one.plan, "pool") == 0.0));
    const double all = on_rank_0(planned(network_of(), {1000}).plan, "network");
    // embeddings as they are, scaled, and while they are looked at; labels as fitted, of rows and columns, and scaled
    BOOST_TEST(all > 1000.0 * (3 * 4 * 8 + 4 * 3 * 3 + 8 * 3));
    BOOST_TEST(all < 1.2 * (1000.0 * (3 * 4 * 8 + 4 * (2 * 4 + 2 * 3) + 8 * 3) + 6 * 4 * 181 + 200));
}

BOOST_AUTO_TEST_CASE(embeddings_are_not_compared) {
    const auto failure = failure_of(ExitCode::usage, [] { planned(network_of("auto")); });
    BOOST_TEST(failure.where == "--embedding");
}

BOOST_AUTO_TEST_SUITE_END()
