#pragma once
// The represented samples of the pool as ranks share them out, and sums over them.

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "idistill/comm/communicator.hpp"
#include "idistill/data/rows.hpp"
#include "idistill/selection/similarity.hpp"
#include "idistill/selection/weighted.hpp"
#include "kernels.hpp"

namespace idistill::selection {

/// The pool cut into at most 128 blocks of equal size, whole tiles of at least 256 rows. Gains are formed within a
/// block and added in block order, so that they do not depend on the rank count.
class CoverBlocks {
public:
    explicit CoverBlocks(std::int64_t pool_rows)
        : rows_(whole_tiles(std::max<std::int64_t>(256, (pool_rows + most - 1) / most))),
          count_((pool_rows + rows_ - 1) / rows_),
          pool_rows_(pool_rows) {}

    [[nodiscard]] std::size_t count() const { return static_cast<std::size_t>(count_); }
    [[nodiscard]] std::int64_t rows() const { return rows_; }
    /// Rows of a rank: whole blocks.
    [[nodiscard]] data::RowRange of_rank(const comm::Communicator& comm) const {
        return blocked_shard(pool_rows_, rows_, comm.rank(), comm.size());
    }

    static std::int64_t whole_tiles(std::int64_t rows) {
        return (rows + similarity_lanes - 1) / similarity_lanes * similarity_lanes;
    }

private:
    static constexpr std::int64_t most = 128;
    std::int64_t rows_, count_, pool_rows_;
};

/// Sums of so many gains over all blocks.
class BlockGains {
public:
    BlockGains(std::size_t gains, std::size_t blocks) : blocks_(blocks), sums_(gains * blocks, 0.0) {}

    void set(std::size_t gain, std::size_t block, const double* apart) {
        sums_[gain * blocks_ + block] = summed_gain(apart);
    }
    /// Collective.
    [[nodiscard]] std::vector<double> over_ranks(comm::Communicator& comm) {
        if (comm.size() > 1) comm.all_reduce_disjoint(std::span(sums_));
        std::vector<double> gains(sums_.size() / blocks_, 0.0);
        for (std::size_t gain = 0; gain < gains.size(); ++gain)
            for (std::size_t block = 0; block < blocks_; ++block) gains[gain] += sums_[gain * blocks_ + block];
        return gains;
    }

private:
    std::size_t blocks_;
    std::vector<double> sums_;
};

/// The gain of one candidate from numbers at ascending places of this rank, whose first is at the border of block
/// `first_block`.
class ListedGain {
public:
    ListedGain(BlockGains& gains, std::size_t gain, const CoverBlocks& blocks, std::size_t first_block)
        : gains_(gains),
          gain_(gain),
          block_rows_(static_cast<std::uint32_t>(blocks.rows())),
          block_(first_block),
          end_(block_rows_) {}
    ListedGain(const ListedGain&) = delete;
    ListedGain& operator=(const ListedGain&) = delete;
    ~ListedGain() { close(); }

    void add(std::uint32_t place, float gain) {
        while (place >= end_) {
            close();
            ++block_;
            end_ += block_rows_;
        }
        any_ = true;
        apart_[place % gain_sums] += static_cast<double>(gain);
    }

private:
    void close() {
        if (any_) gains_.set(gain_, block_, apart_.data());
        apart_.fill(0.0);
        any_ = false;
    }

    BlockGains& gains_;
    std::size_t gain_;
    std::uint32_t block_rows_;
    std::size_t block_;
    std::uint32_t end_;
    bool any_ = false;
    std::array<double, gain_sums> apart_{};
};

}  // namespace idistill::selection
