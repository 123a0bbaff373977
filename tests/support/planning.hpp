#pragma once
// What a member plans from, of a small model and a pool of equal samples.

#include <boost/test/unit_test.hpp>
#include <string>
#include <utility>
#include <vector>

#include "corpora.hpp"
#include "idistill/model/planner.hpp"
#include "small_model.hpp"

namespace idistill::test {

struct Planning {
    Planning() = default;
    Planning(const Planning&) = delete;
    Planning& operator=(const Planning&) = delete;

    model::ModelConfig model = small_model();
    data::CorpusIndex pool = corpus(std::vector<Sample>(1000, {20, 5}));
    data::CorpusIndex targets = corpus({{9, 3}, {8, 2}, {7, 1}});
    plan::UsableRows usable = usable_of_both();
    options::RunSettings run;
    plan::Plan plan;
    model::Planner planner{model, pool, targets, usable, run, plan};

    /// Of the targets two thirds are task a.
    void take(data::CorpusIndex of_pool, data::CorpusIndex of_targets) {
        pool = std::move(of_pool);
        targets = std::move(of_targets);
        usable = usable_of_both();
    }

private:
    [[nodiscard]] plan::UsableRows usable_of_both() const {
        const auto first = targets.size() - targets.size() / 3;
        return plan::usable_rows({pool, {{pool.size(), 0}}}, {targets, {{first, 0}, {targets.size() - first, 0}}},
                                 {{"a", "a.h5"}, {"b", "b.h5"}});
    }
};

/// Places that units cover, one after the other without a gap.
inline std::int64_t covered(const std::vector<data::WorkUnit>& units) {
    std::int64_t next = 0;
    for (const auto& unit : units) {
        BOOST_TEST((unit.rows.first == next && unit.rows.count > 0));
        next = unit.rows.end();
    }
    return next;
}

/// Bytes a rank of what is called so, over all entries; 0 where there are none.
inline double bytes_per_rank(const plan::Plan& plan, const std::string& what) {
    double sum = 0.0;
    for (const auto& need : plan.needs)
        if (need.what == what) sum += need.per_rank;
    return sum;
}

/// The same of what is held in a stage, or a step beside the stages.
inline double bytes_held(const plan::Plan& plan, const std::string& what, const std::string& stage) {
    double sum = 0.0;
    for (const auto& need : plan.needs)
        if (need.what == what && need.held_in(stage)) sum += need.per_rank;
    return sum;
}

}  // namespace idistill::test
