#pragma once
// Facility locations on small problems: chosen by ranks that are threads, and by brute force.

#include <algorithm>
#include <bit>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "idistill/comm/thread_group.hpp"
#include "idistill/options/run_settings.hpp"
#include "idistill/selection/members.hpp"
#include "idistill/selection/selector.hpp"
#include "idistill/selection/settings.hpp"
#include "temporary_folder.hpp"

namespace idistill::test {

using selection::FacilityLocationSettings;
using Rows = std::vector<std::int64_t>;

inline constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

/// A pool whose samples have factors, influence on some columns, lengths and sources.
struct FacilityPool {
    std::int64_t rows = 0, width = 0, columns = 0;
    std::vector<float> factors;    ///< (rows x width)
    std::vector<float> influence;  ///< (rows x columns)
    std::vector<std::uint8_t> eligible;
    std::vector<std::int32_t> tokens, source, column_task;
    std::vector<std::string> source_names{"a", "b", "c"};
    Rows held;

    [[nodiscard]] static std::string id(std::int64_t row) { return "sample " + std::to_string(row); }
    [[nodiscard]] float& factor(std::int64_t row, std::int64_t f) {
        return factors[static_cast<std::size_t>(row * width + f)];
    }
    [[nodiscard]] bool usable(std::int64_t row) const {
        const auto finite = [row](const std::vector<float>& all, std::int64_t count) {
            return std::all_of(all.begin() + row * count, all.begin() + (row + 1) * count,
                               [](float value) { return std::isfinite(value); });
        };
        return eligible[static_cast<std::size_t>(row)] != 0 && finite(factors, width) && finite(influence, columns);
    }
    [[nodiscard]] std::unique_ptr<selection::Similarity> similarity() const {
        return selection::cosine_similarity(width, [this](std::span<const std::int64_t> asked, std::span<float> out) {
            for (std::size_t i = 0; i < asked.size(); ++i)
                std::copy_n(factors.begin() + asked[i] * width, width,
                            out.begin() + static_cast<std::ptrdiff_t>(i) * width);
        });
    }
    [[nodiscard]] double cosine(std::int64_t i, std::int64_t j) const {
        double product = 0.0, a = 0.0, b = 0.0;
        for (std::int64_t f = 0; f < width; ++f) {
            const double x = static_cast<double>(factors[static_cast<std::size_t>(i * width + f)]);
            const double y = static_cast<double>(factors[static_cast<std::size_t>(j * width + f)]);
            product += x * y;
            a += x * x;
            b += y * y;
        }
        return product / std::sqrt(a * b);
    }
};

/// Samples around `clusters` centres.
inline FacilityPool clustered_pool(unsigned seed, std::int64_t rows, std::int64_t clusters, std::int64_t width = 8,
                                   std::int64_t columns = 3) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    FacilityPool pool;
    pool.rows = rows;
    pool.width = width;
    pool.columns = columns;
    std::vector<float> centres(static_cast<std::size_t>(clusters * width));
    for (float& value : centres) value = normal(random);
    for (std::int64_t row = 0; row < rows; ++row) {
        const auto centre = static_cast<std::int64_t>(random() % static_cast<unsigned>(clusters));
        for (std::int64_t f = 0; f < width; ++f)
            pool.factors.push_back(centres[static_cast<std::size_t>(centre * width + f)] + 0.5F * normal(random));
        for (std::int64_t t = 0; t < columns; ++t) pool.influence.push_back(normal(random));
        pool.eligible.push_back(1);
        pool.tokens.push_back(1 + static_cast<std::int32_t>(random() % 20));
        pool.source.push_back(static_cast<std::int32_t>(random() % 3));
    }
    pool.column_task.assign(static_cast<std::size_t>(columns), 0);
    return pool;
}

inline options::Values facility_values(const std::string& rule, std::int64_t samples) {
    options::Values values;
    values.of<selection::SelectionSettings>().member = rule;
    values.of<selection::BudgetSettings>().samples = samples;
    return values;
}

/// Values of a rule that compares samples, without a file: as if it had been learnt.
inline options::Values by_samples(const std::string& rule, std::int64_t samples) {
    auto values = facility_values(rule, samples);
    values.of<FacilityLocationSettings>().similarity = selection::SimilarityKind::learnt;
    return values;
}

inline selection::Selection chosen_by(const options::Values& given, const FacilityPool& pool, int ranks) {
    const TemporaryFolder folder;
    auto values = given;
    if (!pool.held.empty()) {
        std::string ids;
        for (const auto row : pool.held) ids += FacilityPool::id(row) + "\n";
        values.of<FacilityLocationSettings>().held = folder.file("held.txt", ids);
    }
    std::vector<selection::Selection> found(static_cast<std::size_t>(ranks));
    comm::run_ranks_as_threads(ranks, [&](comm::Communicator& comm) {
        const selection::PoolFacts facts{.eligible = pool.eligible,
                                         .tokens = pool.tokens,
                                         .source = pool.source,
                                         .source_names = pool.source_names,
                                         .column_task = pool.column_task,
                                         .tasks = 1};
        const auto similarity = pool.similarity();
        const selection::InfluenceRows influence{
            .columns = pool.columns,
            .products = pool.columns,
            .read =
                [&pool](std::int64_t first, std::int64_t count, std::int64_t width, std::span<float> out) {
                    std::copy_n(pool.influence.begin() + first * width, count * width, out.begin());
                },
            .curvature = {},
            .similarity = similarity.get()};
        const auto selector = selection::make_selector(values);
        selector->check(facts);
        selector->open(comm, facts, [](data::RowRange rows) {
            std::vector<std::string> ids;
            for (auto row = rows.first; row < rows.end(); ++row) ids.push_back(FacilityPool::id(row));
            return ids;
        });
        found[static_cast<std::size_t>(comm.rank())] =
            selector->choose(comm, influence, facts, selector->request(facts));
    });
    return found.front();
}

inline Rows rows_of(const selection::Selection& selection) {
    Rows rows;
    for (const auto& pick : selection.picks) rows.push_back(pick.row);
    return rows;
}

/// The objective as METHOD has it, from every pair: a set of similarities s (represented x pool), >= 0, what of them
/// is covered before, how far one can be covered at most, and what a sample counts by itself.
struct Objective {
    std::int64_t represented = 0, rows = 0;
    std::vector<double> s;           ///< (represented x rows)
    std::vector<double> base, most;  ///< (represented)
    std::vector<double> own;         ///< (rows)

    [[nodiscard]] double operator()(const Rows& set) const {
        double sum = 0.0;
        for (std::int64_t i = 0; i < represented; ++i) {
            const auto place = static_cast<std::size_t>(i);
            double best = 0.0;
            for (const auto j : set) best = std::max(best, s[static_cast<std::size_t>(i * rows + j)]);
            sum += std::max(std::min(best, most[place]) - base[place], 0.0);
        }
        for (const auto j : set) sum += own[static_cast<std::size_t>(j)];
        return sum;
    }
};

/// Influence scaled to 0 .. 1 over the samples that can be used, columns x rows.
inline std::vector<double> scaled_influence(const FacilityPool& pool) {
    double low = std::numeric_limits<double>::infinity(), high = -low;
    for (std::int64_t row = 0; row < pool.rows; ++row) {
        if (!pool.usable(row)) continue;
        for (std::int64_t t = 0; t < pool.columns; ++t) {
            const double value = static_cast<double>(pool.influence[static_cast<std::size_t>(row * pool.columns + t)]);
            low = std::min(low, value);
            high = std::max(high, value);
        }
    }
    std::vector<double> scaled(static_cast<std::size_t>(pool.columns * pool.rows), 0.0);
    for (std::int64_t row = 0; row < pool.rows; ++row)
        for (std::int64_t t = 0; pool.usable(row) && t < pool.columns; ++t)
            scaled[static_cast<std::size_t>(t * pool.rows + row)] =
                (static_cast<double>(pool.influence[static_cast<std::size_t>(row * pool.columns + t)]) - low) /
                (high - low);
    return scaled;
}

/// eta and nu as in the settings; mutual information and conditional gain as the rule's name says.
inline Objective objective_of(const FacilityPool& pool, const options::Values& values) {
    const auto& settings = values.of<FacilityLocationSettings>();
    const bool of_samples = settings.similarity != selection::SimilarityKind::influence;
    const bool mi = values.of<selection::SelectionSettings>().member == "facility-location-mi";
    const bool cg = values.of<selection::SelectionSettings>().member == "facility-location-cg";
    const auto influence = scaled_influence(pool);
    const auto n = static_cast<std::size_t>(pool.rows);
    std::vector<double> largest(n, 0.0);
    for (std::size_t row = 0; row < n; ++row)
        for (std::size_t t = 0; t < static_cast<std::size_t>(pool.columns); ++t)
            largest[row] = std::max(largest[row], influence[t * n + row]);
    Objective objective;
    objective.rows = pool.rows;
    objective.represented = of_samples ? pool.rows : pool.columns;
    const auto count = static_cast<std::size_t>(objective.represented);
    objective.own.assign(n, 0.0);
    objective.most.assign(count, std::numeric_limits<double>::infinity());
    objective.base.assign(count, 0.0);
    if (of_samples) {
        objective.s.assign(n * n, 0.0);
        for (std::int64_t i = 0; i < pool.rows; ++i)
            for (std::int64_t j = 0; j < pool.rows; ++j)
                if (pool.usable(i) && pool.usable(j))
                    objective.s[static_cast<std::size_t>(i * pool.rows + j)] = std::max(0.0, pool.cosine(i, j));
    } else {
        objective.s = influence;
    }
    for (std::size_t row = 0; mi && row < n; ++row)
        (of_samples ? objective.most : objective.own)[row] = settings.target_weight * largest[row];
    for (std::size_t i = 0; cg && i < count; ++i)
        for (const auto p : pool.held)
            objective.base[i] =
                std::max(objective.base[i], settings.held_weight * objective.s[i * n + static_cast<std::size_t>(p)]);
    return objective;
}

inline Rows candidates_of(const FacilityPool& pool) {
    Rows rows;
    for (std::int64_t row = 0; row < pool.rows; ++row)
        if (pool.usable(row) && std::find(pool.held.begin(), pool.held.end(), row) == pool.held.end())
            rows.push_back(row);
    return rows;
}

/// The candidates that add most to a set, to rounding of float32: where two stand for each other, they add the same.
inline Rows best_next(const Objective& objective, const Rows& candidates, const Rows& set) {
    std::vector<double> value;
    Rows left;
    for (const auto row : candidates) {
        if (std::find(set.begin(), set.end(), row) != set.end()) continue;
        auto with = set;
        with.push_back(row);
        left.push_back(row);
        value.push_back(objective(with));
    }
    Rows best;
    for (std::size_t i = 0; i < left.size(); ++i)
        if (value[i] > *std::max_element(value.begin(), value.end()) - 1e-6) best.push_back(left[i]);
    return best;
}

/// The largest value over all sets of so many candidates that `allowed` takes.
template <class Allowed>
double optimum_by_force(const Objective& objective, const Rows& candidates, std::int64_t count, Allowed allowed) {
    double best = 0.0;
    for (std::uint32_t set = 0; set < (1U << candidates.size()); ++set) {
        if (std::popcount(set) != count) continue;
        Rows rows;
        for (std::size_t i = 0; i < candidates.size(); ++i)
            if ((set >> i & 1U) != 0) rows.push_back(candidates[i]);
        if (allowed(rows)) best = std::max(best, objective(rows));
    }
    return best;
}

}  // namespace idistill::test
