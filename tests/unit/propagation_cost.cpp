// What kernel ridge plans: FLOPs, widths and bytes, against counting.

#include <boost/test/unit_test.hpp>

#include "counted_flops.hpp"
#include "failure_of.hpp"
#include "idistill/embedding/embedding.hpp"
#include "idistill/influence/gradient/settings.hpp"
#include "idistill/model/cost.hpp"
#include "idistill/propagation/propagation.hpp"
#include "idistill/propagation/settings.hpp"
#include "planning.hpp"

using namespace idistill;
using namespace idistill::propagation;
using namespace idistill::test;
using embedding::EmbeddingSettings, embedding::JvpSettings;
using options::Values;

namespace {

Values values_with(const std::string& embedding, std::int64_t embedding_dim = 4096) {
    Values values;
    auto& settings = values.of<EmbeddingSettings>();
    settings.embedding = embedding;
    settings.embedding_dim = embedding_dim;
    settings.jvp_blocks = 2;
    return values;
}

influence::Layout columns_and_norm(std::int64_t columns) {
    return {.columns = columns, .extras = {{.dataset = "/gradient_norm", .width = 1, .logarithmic = true}}};
}

struct Planned {
    std::unique_ptr<Propagation> propagation;
    plan::Plan plan;
    [[nodiscard]] double bytes(const std::string& what) const { return bytes_per_rank(plan, what); }
    [[nodiscard]] double solve() const {  ///< of rank 0
        double sum = 0.0;
        for (const auto& need : plan.needs) {
            if (need.on_rank_0 > 0.0) BOOST_TEST((need.held_in("solve") && !need.held_in("pool")));
            sum += need.on_rank_0;
        }
        return sum;
    }
};

Planned planned(const Values& values, std::int64_t landmarks = 100, std::int64_t columns = 3) {
    Planning planning;
    auto propagation = make_propagation(values);
    propagation->plan(planning.planner, columns_and_norm(columns), {landmarks});
    return {std::move(propagation), planning.plan};
}

double embedding_flops(const std::string& name, const Values& values, std::int64_t tokens, std::int64_t labels) {
    Planning planning;
    const auto embedding = embedding::make_embedding(name, values);
    embedding->plan(planning.planner);
    return embedding->flops(tokens, labels);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(propagation_cost)

BOOST_AUTO_TEST_CASE(a_prediction_is_a_row_of_the_kernel) {
    const auto values = values_with("hidden", 3);
    Counter row(small_model(), 1);
    row.product(1, 3, 50);      // distances to 50 landmarks
    row.product(1, 50, 7 + 1);  // seven columns and the norm
    const auto propagation = planned(values, 50, 7).propagation;
    BOOST_TEST(propagation->feature_flops(6, 1) == embedding_flops("hidden", values, 6, 1));
    BOOST_TEST(propagation->prediction_flops(6, 1) == propagation->feature_flops(6, 1) + row.flops());
}

BOOST_AUTO_TEST_CASE(several_embeddings_cost_their_sum) {
    const auto values = values_with("jvp+gradient-tail:2");
    const auto both = planned(values, 10, 3).propagation;
    BOOST_TEST(both->feature_flops(9, 4) ==
               embedding_flops("jvp", values, 9, 4) + embedding_flops("gradient-tail:2", values, 9, 4));
    const auto alone =
        planned(values_with("jvp")).propagation->width() + planned(values_with("gradient-tail:2")).propagation->width();
    BOOST_TEST(both->width() == alone);
    BOOST_TEST(both->prediction_flops(9, 4) - both->feature_flops(9, 4) == 2.0 * 10.0 * static_cast<double>(alone + 4));
}

BOOST_AUTO_TEST_CASE(bytes_and_flops_of_the_solve) {
    const auto one = planned(values_with("jvp"));
    BOOST_TEST(one.propagation->width() == 8);
    // embedding of 8 three times; three columns and the norm: three times fp32, twice fp64
    BOOST_TEST(one.bytes("landmarks") == 100.0 * (3 * 4 * 8 + (3 * 4 + 2 * 8) * 4));
    // kernel, vectors, squares and workspace; embedding; seven times the labels, fp64
    BOOST_TEST(one.solve() == 100.0 * 8 * (5 * 100 + 8 + 7 * 4));
    BOOST_TEST(one.plan.stage("solve").flops() == 9.0 * 1e6);
    BOOST_TEST((one.plan.stage("solve").places() == 100 && one.plan.stage("solve").stored_bytes() == 0.0));
    auto values = values_with("jvp");
    values.of<KernelRidgeSettings>().bandwidth_auto = true;
    const auto bandwidths = planned(values);
    BOOST_TEST(bandwidths.solve() == one.solve() + 100.0 * 8 * 5 * 100);
    BOOST_TEST(bandwidths.plan.stage("solve").flops() == 5.0 * one.plan.stage("solve").flops());
    const auto twice = planned(values_with("jvp"), 200);
    BOOST_TEST(twice.solve() > 3.8 * one.solve());
    BOOST_TEST(twice.plan.stage("solve").flops() == 8.0 * one.plan.stage("solve").flops());
}

BOOST_AUTO_TEST_CASE(bytes_and_flops_of_several_embeddings) {
    const auto one = planned(values_with("jvp"));
    const auto two = planned(values_with("jvp+hidden"));
    BOOST_TEST(two.propagation->width() == 16);
    BOOST_TEST(two.bytes("landmarks") == one.bytes("landmarks") + 100.0 * 3 * 4 * 8);
    auto values = values_with("jvp+hidden");
    values.of<KernelRidgeSettings>().kernel = KernelChoice::sum;
    const auto sum = planned(values);
    BOOST_TEST(sum.solve() == one.solve() + 100.0 * 8 * (100 + 8));
    BOOST_TEST(two.solve() == sum.solve() + 100.0 * 8 * 5 * 100);  // two kernels compared
    const auto flops = [](const Planned& p) { return p.plan.stage("solve").flops(); };
    BOOST_TEST((flops(two) == 2.0 * flops(sum) && flops(sum) == flops(one)));
    BOOST_TEST(flops(planned(values_with("auto"))) == 3.0 * flops(two));  // jvp, hidden and both
}

BOOST_AUTO_TEST_CASE(landmarks_are_there_once_the_influence_has_its_columns) {
    Planning planning;
    planning.planner.earlier = {"targets", "columns"};
    make_propagation(values_with("jvp"))->plan(planning.planner, columns_and_norm(3), {100});
    for (const auto* stage : {"landmarks", "solve", "pool", "select", "write"})
        BOOST_TEST(bytes_held(planning.plan, "landmarks", stage) == 100.0 * (3 * 4 * 8 + (3 * 4 + 2 * 8) * 4), stage);
    for (const auto* stage : {"targets", "columns"}) BOOST_TEST(bytes_held(planning.plan, "landmarks", stage) == 0.0);
}

BOOST_AUTO_TEST_CASE(bytes_of_a_pass_and_of_a_unit) {
    const plan::Batch batch{.rows = 60, .tokens = 700, .samples = 40, .labels = 90, .longest = 50};
    const auto one = planned(values_with("jvp")), two = planned(values_with("hidden+jvp"));
    const auto model = small_model();
    BOOST_TEST(one.propagation->pass_bytes(batch).together() == model::state_activation_bytes(model, 2, 700));
    // one embedding after the other
    BOOST_TEST(two.propagation->pass_bytes(batch).together() == one.propagation->pass_bytes(batch).together());
    // rows of every embedding, of a unit and of a micro-batch; side by side; three columns and the norm, twice
    BOOST_TEST(one.propagation->unit_bytes(batch) == 4.0 * (8 * (60 + 40) + 60 * (8 + 2 * 4)));
    BOOST_TEST(two.propagation->unit_bytes(batch) == 4.0 * (16 * (60 + 40) + 60 * (16 + 2 * 4)));
}

BOOST_AUTO_TEST_CASE(the_hash_follows_every_width) {
    const auto hash = [](const Values& values) {
        auto plan = planned(values).plan;
        plan.stages.clear();
        return plan.hash();
    };
    BOOST_TEST(hash(values_with("jvp")) == hash(values_with("hidden")));  // both of 8 numbers
    BOOST_TEST(hash(values_with("jvp")) != hash(values_with("jvp", 5)));
    BOOST_TEST(hash(values_with("jvp")) != hash(values_with("jvp+hidden")));
}

BOOST_AUTO_TEST_CASE(an_embedding_that_does_not_fit_the_model_is_refused) {
    const auto blocks = failure_of(ExitCode::usage, [] { planned(values_with("jvp+gradient-tail:4", 100)); });
    BOOST_TEST((blocks.where == "--embedding" && contains(blocks.expected, "at most 3")));
    failure_of(ExitCode::usage, [] { planned(values_with("jvp+jpv")); });
}

BOOST_AUTO_TEST_CASE(none_is_no_propagation) {
    Values values;
    values.of<PropagationSettings>().member = "none";
    BOOST_TEST(make_propagation(values) == nullptr);
}

BOOST_AUTO_TEST_SUITE_END()
