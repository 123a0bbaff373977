// What a selection needs of memory: the influences that weights are chosen by.

#include <boost/test/unit_test.hpp>

#include "failure_of.hpp"
#include "idistill/plan/plan.hpp"
#include "idistill/selection/members.hpp"
#include "idistill/selection/selector.hpp"
#include "idistill/selection/settings.hpp"

using namespace idistill;
using namespace idistill::selection;
using namespace idistill::test;
using options::Values;

namespace {

constexpr std::int64_t pool = 1 << 20, columns = 200;
constexpr plan::RankLayout layout{4, 2};

Values weighted(Order order) {
    Values values;
    values.command = options::Command::select;
    values.of<SelectionSettings>().member = "weighted";
    values.of<WeightedSettings>().order = order;
    values.of<BudgetSettings>().percent = 5.0;
    return values;
}

Values by_hessian() {
    auto values = weighted(Order::second);
    values.of<WeightedSettings>().curvature = Curvature::hessian;
    return values;
}

/// Of a result with 7 GB; `extras`: columns of the Hessian's factor.
plan::Plan needs(const Values& values, std::int64_t extras = 0) {
    plan::Plan plan;
    plan.result = {{"copy", 1, 7e9}};
    make_selector(values)->plan(plan, {pool, columns, extras});
    return plan;
}

/// Of one rank, and only while it selects.
double held(const plan::Plan& plan, int ranks) {
    double sum = 0.0;
    for (const auto& need : plan.needs) {
        BOOST_TEST((need.held_in("select") && !need.held_in("pool") && !need.held_in("write")));
        BOOST_TEST((need.on_rank_0 == 0.0 && need.per_node == 0.0));
        sum += need.per_rank + need.over_ranks / ranks;
    }
    BOOST_TEST(plan.bytes_per_rank(ranks) == 205e6 + 1.15 * sum, boost::test_tools::tolerance(1e-15));
    return sum;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(selection_needs)

BOOST_AUTO_TEST_CASE(a_selection_by_weights_needs_its_influences) {
    // of a rank's whole blocks of 1,024: its share of all but one, and one
    const double rows = 1024 + (pool - 1024) / 4.0;
    const double kept = 52429;  // 5 %
    const auto bytes = [](const Values& values, std::int64_t extras = 0) {
        return held(needs(values, extras), layout.ranks);
    };
    BOOST_TEST(bytes(weighted(Order::second)) == (rows + kept) * (24 + 4 * columns));
    BOOST_TEST(bytes(by_hessian(), 3) == (rows + kept) * (24 + 4 * 3));
    BOOST_TEST(bytes(weighted(Order::first)) == rows * 24);
    auto with_rate = by_hessian();
    with_rate.of<WeightedSettings>().learning_rate = 0.1;  // with it an optimizer's constant part counts
    BOOST_TEST(bytes(with_rate, 3) == bytes(by_hessian(), 3) + rows * 16);
    auto with_number = weighted(Order::second);
    with_number.of<BudgetSettings>().percent.reset();
    with_number.of<BudgetSettings>().samples = 57;
    BOOST_TEST(bytes(with_number) == (rows + 57) * (24 + 4 * columns));
    for (const auto* member : {"round-robin", "top-k", "random"}) {
        auto values = weighted(Order::second);
        values.of<SelectionSettings>().member = member;
        BOOST_TEST(bytes(values) == 0.0, member);
    }
}

BOOST_AUTO_TEST_CASE(only_weights_by_the_hessian_want_its_factor) {
    BOOST_TEST(
        (make_selector(by_hessian())->wants_extras() && !make_selector(weighted(Order::second))->wants_extras()));
    auto first = by_hessian();
    first.of<WeightedSettings>().order = Order::first;
    BOOST_TEST(!make_selector(first)->wants_extras());
    BOOST_TEST(needs(first).needs.size() == 1U);
    BOOST_TEST(failure_of(ExitCode::usage, [] { needs(by_hessian()); }).where == "--curvature");
}

BOOST_AUTO_TEST_CASE(a_small_pool_is_one_block) {
    plan::Plan plan;
    make_selector(weighted(Order::first))->plan(plan, {1000, 3, 0});
    BOOST_TEST((held(plan, 1) == 24000.0 && held(plan, 64) == 24000.0));
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_is_named_with_a_remedy) {
    const auto plan = needs(weighted(Order::second));
    const double node = plan.bytes_per_node(layout), disk = plan.disk_bytes();
    BOOST_TEST(disk == 7e9 + 2 * 5300 + 340);  // two files, of one dataset
    BOOST_TEST(plan::shortfalls(plan, layout, {node, {}, disk}).empty());
    const auto failure = failure_of(ExitCode::too_large, [&] {
        plan::check_fits(plan, layout, {node - 1.0, {}, disk});
    });
    BOOST_TEST(contains(failure.remedy, "--order first-order"));
    BOOST_TEST(plan::shortfalls(plan, layout, {node, {}, 6e9}).front().what == "disk");
}

BOOST_AUTO_TEST_SUITE_END()
