#pragma once
// Plans of small corpora.

#include <vector>

#include "config_support.hpp"
#include "idistill/config/plan.hpp"

namespace config_test {

inline const data::CorpusIndex default_targets = corpus({{9, 3}, {8, 2}, {7, 1}});

inline Plan plan_of(const Settings& settings, const data::CorpusIndex& pool,
                    const data::CorpusIndex& targets = default_targets, std::int64_t max_length = 0) {
    const std::int64_t first = targets.size() - targets.size() / 3;  // two thirds are task a
    return make_plan(settings, tiny_model(), {pool, {{pool.size(), max_length}}},
                     {targets, {{first, 0}, {targets.size() - first, 0}}});
}

inline data::CorpusIndex good_pool(std::int64_t rows) {
    std::vector<Sample> samples;
    for (std::int64_t i = 0; i < rows; ++i)
        samples.push_back({static_cast<std::int32_t>(4 + i % 5), 2, static_cast<std::int32_t>(i % 2)});
    return corpus(samples);
}

inline std::int64_t covered(const std::vector<data::WorkUnit>& units) {
    std::int64_t next = 0;
    for (const auto& unit : units) {
        BOOST_TEST((unit.rows.first == next && unit.rows.count > 0));
        next = unit.rows.end();
    }
    return next;
}

}  // namespace config_test
