#include "column_objective.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "idistill/base/finite.hpp"
#include "idistill/data/row_runs.hpp"
#include "idistill/data/work_unit.hpp"
#include "kept_gains.hpp"
#include "kernels.hpp"

namespace idistill::selection {
namespace {

class ColumnObjective final : public Objective {
public:
    ColumnObjective(comm::Communicator& comm, const ScaledInfluence& influence, std::int64_t pool_rows,
                    std::vector<float> cover, double eta, double kept_bytes)
        : comm_(comm),
          influence_(influence),
          mine_(data::shard_of(pool_rows, comm.rank(), comm.size())),
          cover_(std::move(cover)),
          eta_(eta),
          kept_(kept_bytes) {}

    std::vector<double> gains(std::span<const std::int64_t> rows, bool keep) override {
        std::vector<double> gains(rows.size(), 0.0);
        for (std::size_t i = 0; i < rows.size(); ++i)
            if (is_mine(rows[i]) && kept_.find(rows[i]) != nullptr) gains[i] = kept_gain(rows[i]);
        std::vector<std::size_t> unknown;
        std::vector<std::int64_t> unknown_rows;
        for (std::size_t i = 0; i < rows.size(); ++i) {
            if (!is_unknown(rows[i])) continue;
            unknown.push_back(i);
            unknown_rows.push_back(rows[i]);
        }
        std::vector<float> block;
        data::for_each_run(unknown_rows, [&](std::size_t place, data::RowRange run) {
            block.resize(static_cast<std::size_t>(run.count) * cover_.size());
            influence_.read(run.first, run.count, block);
            auto of = std::span<const float>(block);
            for (auto row = run.first; row < run.end(); ++row, of = of.subspan(cover_.size()))
                gains[unknown[place++]] = new_gain(row, of.first(cover_.size()), keep);
        });
        if (comm_.size() > 1) comm_.all_reduce_disjoint(std::span(gains));
        return gains;
    }

    void add(std::int64_t row) override {
        std::vector<float> added(cover_.size(), 0.0F);
        if (is_mine(row)) {
            if (kept_.find(row) != nullptr)
                kept_.visit(row, cover_, [&](std::uint32_t place, float value) { added[place] = value; });
            else
                influence_.read(row, 1, added);
            kept_.forget(row);
        }
        if (comm_.size() > 1) comm_.all_reduce_disjoint(std::span(added));
        for (std::size_t column = 0; column < cover_.size(); ++column)
            cover_[column] = std::max(cover_[column], added[column]);
    }

    [[nodiscard]] double gain_flops() const override { return 2.0 * static_cast<double>(cover_.size()); }

private:
    [[nodiscard]] bool is_mine(std::int64_t row) const { return row >= mine_.first && row < mine_.end(); }
    [[nodiscard]] bool is_unknown(std::int64_t row) const { return is_mine(row) && kept_.find(row) == nullptr; }

    double kept_gain(std::int64_t row) {
        std::array<double, gain_sums> apart{};
        kept_.visit(row, cover_, [&](std::uint32_t place, float value) {
            apart[place % gain_sums] += static_cast<double>(value - cover_[place]);
        });
        return summed_gain(apart.data()) + kept_.find(row)->constant;
    }

    double new_gain(std::int64_t row, std::span<const float> influence, bool keep) {
        std::array<double, gain_sums> apart{};
        std::vector<KeptSimilarity> above;
        for (std::size_t column = 0; column < influence.size(); ++column) {
            if (!(influence[column] > cover_[column])) continue;
            apart[column % gain_sums] += static_cast<double>(influence[column] - cover_[column]);
            if (keep) above.push_back({static_cast<std::uint32_t>(column), influence[column]});
        }
        const double constant =
            eta_ > 0.0 ? eta_ * static_cast<double>(*std::max_element(influence.begin(), influence.end())) : 0.0;
        if (keep) kept_.keep(row, above, constant);
        return summed_gain(apart.data()) + constant;
    }

    comm::Communicator& comm_;
    const ScaledInfluence& influence_;
    data::RowRange mine_;
    std::vector<float> cover_;
    double eta_;
    KeptGains kept_;
};

}  // namespace

ScaledInfluence::ScaledInfluence(comm::Communicator& comm, const InfluenceRows& influence,
                                 std::vector<std::uint8_t>& usable)
    : influence_(influence) {
    const auto mine = data::shard_of(std::ssize(usable), comm.rank(), comm.size());
    std::array<float, 2> range{std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()};
    const auto widen = [&range](float low, float high) { range = {std::min(range[0], low), std::max(range[1], high)}; };
    const Shard shard{mine.first, mine.count, columns(),
                      [&influence](std::int64_t first, std::int64_t count, std::span<float> out) {
                          influence.read(first, count, influence.columns, out);
                      }};
    shard.for_each_row([&](std::int64_t row, std::span<const float> numbers) {
        auto& is_usable = usable[static_cast<std::size_t>(row)];
        if (is_usable != 0 && !all_finite(numbers)) is_usable = 0;
        if (is_usable == 0) return;
        const auto [low, high] = std::minmax_element(numbers.begin(), numbers.end());
        widen(*low, *high);
    });
    comm.all_reduce(std::span(usable), comm::Reduction::min);
    for (const auto& of : comm.all_gather(std::span<const float>(range))) widen(of[0], of[1]);
    if (!(range[1] > range[0])) return;
    lowest_ = range[0];
    scale_ = 1.0F / (range[1] - range[0]);
}

void ScaledInfluence::read(std::int64_t first, std::int64_t count, std::span<float> out) const {
    influence_.read(first, count, influence_.columns, out);
    if (scale_ == 0.0F) {
        std::fill(out.begin(), out.end(), 0.0F);
        return;
    }
    for (float& value : out) value = (value - lowest_) * scale_;
}

std::vector<float> ScaledInfluence::largest(data::RowRange rows, std::span<const std::uint8_t> usable) const {
    const Shard shard{
        rows.first, rows.count, columns(),
        [this](std::int64_t first, std::int64_t count, std::span<float> out) { read(first, count, out); }};
    std::vector<float> most;
    shard.for_each_row([&](std::int64_t row, std::span<const float> influence) {
        most.push_back(
            usable[static_cast<std::size_t>(row)] == 0 ? 0.0F : *std::max_element(influence.begin(), influence.end()));
    });
    return most;
}

std::unique_ptr<Objective> column_objective(comm::Communicator& comm, const ScaledInfluence& influence,
                                            std::int64_t pool_rows, std::vector<float> cover, double eta,
                                            double kept_bytes) {
    return std::make_unique<ColumnObjective>(comm, influence, pool_rows, std::move(cover), eta, kept_bytes);
}

std::vector<float> covered_by(comm::Communicator& comm, const ScaledInfluence& influence,
                              std::span<const std::uint8_t> usable, std::span<const std::int64_t> held, double nu) {
    const auto columns = static_cast<std::size_t>(influence.columns());
    std::vector<float> most(columns, 0.0F), own(columns);
    const auto mine = data::shard_of(std::ssize(usable), comm.rank(), comm.size());
    const auto take = [&most](std::span<const float> values) {
        for (std::size_t column = 0; column < most.size(); ++column)
            most[column] = std::max(most[column], values[column]);
    };
    for (const auto row : held) {
        if (row < mine.first || row >= mine.end() || usable[static_cast<std::size_t>(row)] == 0) continue;
        influence.read(row, 1, own);
        take(own);
    }
    for (const auto& part : comm.all_gather(std::span<const float>(most))) take(part);
    for (float& value : most) value = static_cast<float>(nu * static_cast<double>(value));
    return most;
}

}  // namespace idistill::selection
