// What follows from the declaration of a stage.

#include <boost/test/unit_test.hpp>

#include "idistill/plan/stage.hpp"

using namespace idistill;
using namespace idistill::plan;

namespace {

/// Eight places in three units, four numbers a row in two datasets.
Stage stage_that(Keeps keeps, std::int64_t kept_rows = 1, std::int64_t repeats = 1) {
    return {.name = "stage",
            .title = "do it",
            .columns = {{"wide", 3}, {"narrow", 1}},
            .units = {{{0, 4}, 10.0}, {{4, 1}, 25.0}, {{5, 3}, 7.0}},
            .keeps = keeps,
            .kept_rows = kept_rows,
            .repeats = repeats};
}

bool same(const std::vector<data::WorkUnit>& units, const std::vector<data::RowRange>& rows) {
    return std::equal(units.begin(), units.end(), rows.begin(), rows.end(),
                      [](const data::WorkUnit& unit, const data::RowRange& range) { return unit.rows == range; });
}

}  // namespace

BOOST_AUTO_TEST_SUITE(plan_stage)

BOOST_AUTO_TEST_CASE(a_row_for_every_place) {
    const auto stage = stage_that(Keeps::rows, 7);  // of no effect
    BOOST_TEST((stage.places() == 8 && stage.flops() == 42.0 && stage.stored_rows() == 8));
    BOOST_TEST(same(stage.stored_units(), {{0, 4}, {4, 1}, {5, 3}}));
    BOOST_TEST(stage.stored_bytes() == 4.0 * 8 * 4 + 3 * 9.0);  // checksum and mark of a unit
}

BOOST_AUTO_TEST_CASE(rows_for_every_unit) {
    const auto stage = stage_that(Keeps::units, 2);
    BOOST_TEST((stage.places() == 8 && stage.flops() == 42.0 && stage.stored_rows() == 6));
    BOOST_TEST(same(stage.stored_units(), {{0, 2}, {2, 2}, {4, 2}}));
    BOOST_TEST(stage.stored_bytes() == 4.0 * 6 * 4 + 3 * 9.0);
}

BOOST_AUTO_TEST_CASE(rows_for_every_repeat) {
    const auto stage = stage_that(Keeps::repeats, 2, 5);
    BOOST_TEST((stage.places() == 8 && stage.flops() == 5 * 42.0 && stage.stored_rows() == 10));
    BOOST_TEST(same(stage.stored_units(), {{0, 2}, {2, 2}, {4, 2}, {6, 2}, {8, 2}}));
    BOOST_TEST(stage.stored_bytes() == 4.0 * 10 * 4 + 5 * 9.0);
}

BOOST_AUTO_TEST_CASE(what_keeps_nothing_takes_nothing) {
    auto stage = stage_that(Keeps::rows);
    stage.columns.clear();
    BOOST_TEST((stage.stored_bytes() == 0.0 && stage.flops() == 42.0));
    stage = stage_that(Keeps::rows);
    stage.units.clear();
    BOOST_TEST(
        (stage.places() == 0 && stage.flops() == 0.0 && stage.stored_rows() == 0 && stage.stored_bytes() == 0.0));
}

BOOST_AUTO_TEST_CASE(units_know_the_tokens_of_their_places) {
    const auto units = with_tokens(stage_that(Keeps::rows).units, [](std::int64_t place) { return 10 * place; });
    BOOST_TEST((units[0].tokens == 60 && units[1].tokens == 40 && units[2].tokens == 180));
    BOOST_TEST((units[1].flops == 25.0 && same(units, {{0, 4}, {4, 1}, {5, 3}})));
}

BOOST_AUTO_TEST_SUITE_END()
