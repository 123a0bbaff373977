#include "block_sums.hpp"

#include <algorithm>
#include <array>
#include <functional>
#include <string>

#include "idistill/base/error.hpp"

namespace idistill::selection {
namespace {

/// Every rank's first and last row and first and last block must follow those of the ranks before it.
void check_order(comm::Communicator& communicator, std::int64_t block_rows, std::span<const std::int64_t> row) {
    std::array<std::int64_t, 2> mine{0, -1};
    if (!row.empty()) mine = {row.front(), row.back()};
    bool sorted = std::adjacent_find(row.begin(), row.end(), std::greater_equal<>()) == row.end();
    std::int64_t last = -1;
    for (const auto& range : communicator.all_gather(std::span<const std::int64_t>(mine))) {
        if (range[0] > range[1]) continue;
        sorted = sorted && (last < 0 || range[0] / block_rows > last / block_rows);
        last = range[1];
    }
    auto wrong = std::int64_t{!sorted};
    communicator.all_reduce(std::span(&wrong, 1), comm::Reduction::max);
    if (wrong != 0)
        throw Error(ExitCode::internal_error,
                    {"weights", "rows", "ascending over the ranks, no block on two of them", "rows out of order", ""});
}

}  // namespace

BlockSums::BlockSums(comm::Communicator& communicator, std::int64_t block_rows, std::span<const std::int64_t> row)
    : communicator_(&communicator) {
    check_order(communicator, block_rows, row);
    for (std::size_t i = 0; i < row.size(); ++i)
        if (i == 0 || row[i] / block_rows != row[i - 1] / block_rows) border_.push_back(i);
    border_.push_back(row.size());
}

void BlockSums::operator()(const Add& add, std::span<double> sums) const {
    const std::size_t width = sums.size();
    std::vector<double> mine((border_.size() - 1) * width, 0.0);
    for (std::size_t block = 0; block + 1 < border_.size(); ++block)
        add(border_[block], border_[block + 1], std::span(mine).subspan(block * width, width));
    std::fill(sums.begin(), sums.end(), 0.0);
    for (const auto& part : communicator_->all_gather(std::span<const double>(mine)))
        for (std::size_t i = 0; i < part.size(); ++i) sums[i % width] += part[i];
}

double BlockSums::sum(std::span<const double> values) const {
    double total = 0.0;
    (*this)(
        [&](std::size_t begin, std::size_t end, std::span<double> sums) {
            for (std::size_t i = begin; i < end; ++i) sums[0] += values[i];
        },
        std::span(&total, 1));
    return total;
}

}  // namespace idistill::selection
