#pragma once
// The family of selections: from influence, and what is known of the pool, to samples and weights.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "idistill/comm/communicator.hpp"
#include "idistill/data/read_ids.hpp"
#include "idistill/influence/layout.hpp"
#include "idistill/options/values.hpp"
#include "idistill/plan/plan.hpp"
#include "idistill/selection/selection.hpp"
#include "idistill/selection/similarity.hpp"

namespace idistill::selection {

/// What a selection knows of the pool beside its influence; the same on every rank.
struct PoolFacts {
    std::span<const std::uint8_t> eligible;  ///< (N) 0: quarantined
    std::span<const std::int32_t> tokens;    ///< (N) sample lengths
    std::span<const std::int32_t> source;    ///< (N) source number
    std::span<const std::string> source_names;
    std::span<const std::int32_t> column_task;  ///< (C) task number of every column; empty until columns are known
    std::int32_t tasks = 0;
    [[nodiscard]] std::int64_t rows() const { return std::ssize(eligible); }
};

/// What there is to choose by, of any part of the pool on any rank.
struct InfluenceRows {
    std::int64_t columns = 0;
    std::int64_t products = 0;  ///< columns, and the extras behind them
    bool equal = false;         ///< every column has one number in all samples
    /// The first `width` numbers of rows (count x width).
    std::function<void(std::int64_t first, std::int64_t count, std::int64_t width, std::span<float> out)> read;
    /// Q of second order.
    std::function<influence::CurvatureTerms(bool of_extras)> curvature;
    const Similarity* similarity = nullptr;  ///< that was learnt between samples of the pool; null: none was
};

/// Sizes that memory follows from.
struct SelectionShape {
    std::int64_t rows = 0;  ///< N
    std::int64_t columns = 0;
    std::int64_t extras = 0;
    std::int64_t similarity = 0;  ///< width of InfluenceRows::similarity; 0: there is none
};

/// One way to select.
class Selector {
public:
    virtual ~Selector() = default;

    [[nodiscard]] virtual bool wants_extras() const { return false; }
    /// Every eligible sample may be selected: there is no budget.
    [[nodiscard]] virtual bool leaves_number_open() const { return false; }
    /// Adds what it needs of memory. Throws Error(usage) where the influence has no extras that it needs.
    virtual void plan([[maybe_unused]] plan::Plan& plan, [[maybe_unused]] const SelectionShape& shape) const {}
    /// Throws Error(usage) for settings that this pool cannot meet, as far as can be said before influence is known.
    virtual void check(const PoolFacts& pool) const;

    /// Collective: opens and checks files of its own, before anything is computed. `read_ids`: of any rows of the pool,
    /// called on rank 0. Throws Error(bad_input) for one that does not go with the pool.
    virtual void open([[maybe_unused]] comm::Communicator& comm, [[maybe_unused]] const PoolFacts& pool,
                      [[maybe_unused]] const data::ReadIds& read_ids) {}

    /// What it asks of the pool.
    [[nodiscard]] virtual Request request(const PoolFacts& pool) const = 0;
    /// What finds the best predicted of its samples, for a budget of so many: a rule that ranks, limited by caps alone,
    /// as shortlist() takes it and as what refining reaches is guessed by.
    /// A rule that ranks stays what it is, so that with round robin every column has its own best among them. Not asked
    /// where Member::against_refining names an option.
    [[nodiscard]] virtual Request refinable(const PoolFacts& pool, std::int64_t budget) const = 0;
    /// The samples to compute exactly before choosing, by what is predicted of them: `asked` is what refinable() asks
    /// for, with the shortlist's number as budget. Collective; the same on every rank.
    [[nodiscard]] virtual Selection shortlist(comm::Communicator& comm, const InfluenceRows& predicted,
                                              const PoolFacts& pool, const Request& asked) const;
    /// Beside the expected figures of a refinement: what stands for this rule there.
    [[nodiscard]] virtual std::string stand_in() const { return {}; }

    /// Collective; the same on every rank. `request` is this selector's. Throws Error(usage) as the rules do.
    [[nodiscard]] virtual Selection choose(comm::Communicator& comm, const InfluenceRows& influence,
                                           const PoolFacts& pool, const Request& request) const = 0;
};

/// What a rule that ranks picks. Collective; the same on every rank.
Selection select_ranked(comm::Communicator& comm, const InfluenceRows& influence, const PoolFacts& pool,
                        const Request& request);

/// Budget and caps of the settings, and all that is known of the pool: round robin until a rule says otherwise. It
/// refers to the pool. Throws Error(usage) for an unknown source.
Request request_of(const options::Values& values, const PoolFacts& pool);

}  // namespace idistill::selection
