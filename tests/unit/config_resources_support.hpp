#pragma once
// A run whose needs are known by hand.

#include "config_support.hpp"
#include "idistill/config/resources.hpp"

namespace config_test {

struct Run {
    Settings settings = tiny_settings();
    data::CorpusIndex pool = corpus(std::vector<Sample>(1000, {20, 5}));
    data::CorpusIndex targets = corpus({{9, 3}, {8, 2}, {7, 1}});

    Run() { settings.landmarks = 100; }
    void contract() {
        settings.propagation = "none";
        settings.columns = "tasks";
    }
    [[nodiscard]] Plan plan() const {
        return make_plan(settings, tiny_model(), {pool, {{pool.size(), 0}}}, {targets, {{2, 0}, {1, 0}}});
    }
    [[nodiscard]] Resources needs(RankLayout layout = {}) const {
        return estimate(settings, tiny_model(), plan(), layout);
    }
};

inline const MachineFacts plenty{1e15, 1e15, 1e15};

}  // namespace config_test
