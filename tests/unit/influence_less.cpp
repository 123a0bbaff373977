// What the influence of LESS plans, with one checkpoint and with several.

#include "../../src/influence/less/settings.hpp"
#include "failure_of.hpp"
#include "idistill/influence/settings.hpp"
#include "influence_plan.hpp"

using namespace influence_test;

namespace {

/// Of two checkpoints, of which the second is the model.
Values less_values() {
    auto values = small_values();
    values.of<InfluenceSettings>().member = "less";
    values.of<InputSettings>().model = "run/last";
    values.of<LessSettings>().checkpoints = {{"run/first", 2e-5}, {"run/./last", 1e-5}};
    values.of<GradientSettings>().contrast = 7;  // not of LESS
    return values;
}

struct Planned : Planning {
    explicit Planned(const Values& values, const Wanted& wanted = {}) : influence(make_influence(values)) {
        influence->plan(planner, wanted);
    }
    std::unique_ptr<Influence> influence;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(influence_less)

BOOST_AUTO_TEST_CASE(every_checkpoint_has_its_stages) {
    const Planned planned(less_values());
    BOOST_TEST_REQUIRE(planned.plan.stages.size() == 2U);
    BOOST_TEST((planned.plan.stages[0].name == "targets 1" && planned.plan.stages[1].name == "targets 2"));
    BOOST_TEST(planned.plan.stages[1].title == "label targets, checkpoint 2");
    BOOST_TEST(
        (planned.plan.stages[0].places() == 3 && planned.plan.stages[1].flops() == planned.plan.stages[0].flops()));
    BOOST_TEST((planned.influence->layout().columns == 3 && planned.influence->layout().extras.empty()));
    auto one = less_values();
    one.of<LessSettings>().checkpoints.pop_back();
    const Planned alone(one);
    BOOST_TEST_REQUIRE(alone.plan.stages.size() == 1U);
    BOOST_TEST((alone.plan.stages[0].name == "targets" && alone.plan.stages[0].title == "label targets"));
    BOOST_TEST(planned.influence->flops(planned.pool, 0) == 2.0 * alone.influence->flops(alone.pool, 0));
}

BOOST_AUTO_TEST_CASE(checkpoints_share_the_length_of_a_sketch) {
    const auto note = [](const std::vector<Checkpoint>& checkpoints) {
        auto values = less_values();
        values.of<GradientSettings>().sketch = SketchKind::rademacher;  // any length
        values.of<GradientSettings>().sketch_dim.reset();
        values.of<LessSettings>().checkpoints = checkpoints;
        return Planned(values).plan.notes;
    };
    BOOST_TEST(note({{"a", 1.0}}).front() == "sketch of 1310720 numbers");
    BOOST_TEST((note({{"a", 1.0}, {"b", 1.0}, {"c", 1.0}, {"d", 1.0}}) ==
                std::vector<std::string>{"sketch of 327680 numbers", "4 checkpoints"}));
}

BOOST_AUTO_TEST_CASE(tasks_of_a_whole_pool_have_directions_at_every_checkpoint) {
    auto values = less_values();
    values.of<InputSettings>().columns = ColumnKind::tasks;
    const Planned planned(values, contraction);
    BOOST_TEST_REQUIRE(planned.plan.stages.size() == 4U);
    BOOST_TEST((planned.plan.find("directions 1") != nullptr && planned.plan.find("directions 2") != nullptr));
    BOOST_TEST(bytes_held(planned.plan, "directions of the tasks", "pool") == 2 * 4.0 * (2 * 72 + 72));
    BOOST_TEST(planned.influence->layout().columns == 2);
}

BOOST_AUTO_TEST_CASE(flops_are_those_of_a_step_of_adam) {
    const auto values = less_values();
    const Planned planned(values);
    Planning planning;
    auto gradient = small_values();
    gradient.of<GradientSettings>().optimizer = "state";
    const auto plan = plan_gradients(gradient, planning.planner, {});
    const auto cost = cost_of(planning, gradient, plan);
    BOOST_TEST(planned.influence->flops(planned.pool, 0) ==
               2.0 * (cost.gradient(19, 5, GradientKind::adam_step) + cost.scores(3)));
}

// Moments of each checkpoint, and weights of those that are not the model; sketches of all while columns are made.
BOOST_AUTO_TEST_CASE(bytes_of_the_checkpoints) {
    const Planned planned(less_values());
    const auto weights = model::weight_bytes(planned.model);
    BOOST_TEST(planned.plan.shared_bytes_per_node() == weights + 2 * 2 * 4.0 * 72);
    BOOST_TEST(planned.influence->reads_weights());
    const std::string targets = "sketches of the targets", columns = "sketches of the columns";
    for (const auto* stage : {"targets 1", "targets 2", "columns 1", "columns 2"})
        BOOST_TEST(bytes_held(planned.plan, targets, stage) == 2 * 4.0 * 12 * 3, stage);
    BOOST_TEST(bytes_held(planned.plan, targets, "pool") == 0.0);
    BOOST_TEST(bytes_held(planned.plan, columns, "pool") == 2 * 4.0 * 12 * 3);
    auto none = less_values();
    none.of<InputSettings>().model = "elsewhere";
    const Planned apart(none);
    BOOST_TEST(apart.plan.shared_bytes_per_node() == 2 * weights + 2 * 2 * 4.0 * 72);
    BOOST_TEST(!apart.influence->reads_weights());
}

BOOST_AUTO_TEST_CASE(what_cannot_be_planned) {
    auto values = less_values();
    values.of<LessSettings>().checkpoints.clear();
    BOOST_TEST(failure_of(ExitCode::usage, [&] { Planned(values, {}); }).found == "neither");
    values.of<GradientSettings>().optimizer = "state";
    const Planned with(values);
    BOOST_TEST((with.plan.shared_bytes_per_node() == 2 * 4.0 * 72 && with.influence->reads_weights()));
}

BOOST_AUTO_TEST_SUITE_END()
