#include "idistill/selection/selection.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <utility>

#include "idistill/base/error.hpp"
#include "idistill/base/finite.hpp"
#include "idistill/base/philox.hpp"
#include "idistill/selection/task_means.hpp"
#include "limits.hpp"
#include "rounds.hpp"

namespace idistill::selection {
namespace {

constexpr std::int64_t read_block_bytes = std::int64_t{8} << 20;  // of influence rows
constexpr std::int64_t gathered_bytes = std::int64_t{1} << 28;    // of heads on the root, all ranks together

/// The lists of a rule: of round robin the columns, otherwise one, of no column.
class Lists {
public:
    explicit Lists(const Request& request)
        : columns_(request.rule == Rule::round_robin ? interleave_tasks(request.column_task, request.tasks)
                                                     : std::vector<std::int32_t>{-1}),
          picked_(request),
          is_random_(request.rule == Rule::random),
          random_(request.seed, "selection", "random") {}

    [[nodiscard]] std::size_t count() const { return columns_.size(); }
    [[nodiscard]] std::int32_t column(std::size_t list) const { return columns_[list]; }
    /// A row's value in a list, the greater the better.
    [[nodiscard]] double value(std::size_t list, std::span<const float> influence, std::int64_t row) const {
        if (!is_random_) return picked_(influence, columns_[list]);
        const auto words = random_.words(static_cast<std::uint64_t>(row), 0);
        return static_cast<double>(((std::uint64_t{words[0]} << 32U) | words[1]) >> 11U);  // 53 bits
    }

private:
    std::vector<std::int32_t> columns_;
    PickedInfluence picked_;
    bool is_random_;
    Philox random_;
};

/// This rank's rows: which of them can still be picked.
class OpenRows {
public:
    OpenRows(const Shard& shard, const Request& request)
        : shard_(shard),
          request_(request),
          open_(request.eligible.begin() + shard.first_row, request.eligible.begin() + shard.first_row + shard.rows) {}

    /// The `depth` best open rows of every list, in one pass over the shard. Rows that are not finite are closed on the
    /// way.
    std::vector<Head> heads(const Lists& lists, std::size_t depth) {
        Heads heads(lists.count(), depth);
        shard_.for_each_row([&](std::int64_t row, std::span<const float> influence) {
            auto& open = open_[static_cast<std::size_t>(row - shard_.first_row)];
            if (open != 0 && !all_finite(influence)) open = 0;
            if (open == 0) return;
            for (std::size_t list = 0; list < lists.count(); ++list)
                heads.offer(list, lists.value(list, influence, row), row);
        });
        return heads.take();
    }

    /// Open rows of every source.
    [[nodiscard]] std::vector<std::int64_t> count(std::size_t sources) const {
        std::vector<std::int64_t> counts(sources, 0);
        for (std::size_t i = 0; i < open_.size(); ++i)
            if (open_[i] != 0) ++counts[source_of(i)];
        return counts;
    }

    /// Closes the picked rows and the rows of sources without room.
    void close(std::span<const std::int64_t> picked, std::span<const std::int64_t> room) {
        for (const std::int64_t row : picked)
            if (row >= shard_.first_row && row < shard_.first_row + shard_.rows)
                open_[static_cast<std::size_t>(row - shard_.first_row)] = 0;
        for (std::size_t i = 0; i < open_.size(); ++i)
            if (room[source_of(i)] == 0) open_[i] = 0;
    }

private:
    [[nodiscard]] std::size_t source_of(std::size_t local) const {
        return static_cast<std::size_t>(request_.source[static_cast<std::size_t>(shard_.first_row) + local]);
    }

    const Shard& shard_;
    const Request& request_;
    std::vector<std::uint8_t> open_;
};

/// The ranks' heads, merged, on the root; empty elsewhere.
std::vector<Head> gather_heads(comm::Communicator& communicator, const std::vector<Head>& mine) {
    std::vector<Candidate> candidates;
    std::vector<std::int64_t> sizes;  // of each list, negative when truncated
    for (const Head& head : mine) {
        candidates.insert(candidates.end(), head.best.begin(), head.best.end());
        const auto size = static_cast<std::int64_t>(head.best.size());
        sizes.push_back(head.truncated ? -size : size);
    }
    auto all_candidates = communicator.gather(std::span<const Candidate>(candidates));
    const auto all_sizes = communicator.gather(std::span<const std::int64_t>(sizes));
    if (!communicator.is_root()) return {};
    std::vector<std::size_t> position(all_sizes.size(), 0);
    std::vector<Head> merged;
    for (std::size_t list = 0; list < mine.size(); ++list) {
        std::vector<Head> parts(all_sizes.size());
        for (std::size_t rank = 0; rank < parts.size(); ++rank) {
            const std::int64_t size = all_sizes[rank][list];
            const auto first = all_candidates[rank].begin() + static_cast<std::ptrdiff_t>(position[rank]);
            parts[rank] = {{first, first + std::abs(size)}, size < 0};
            position[rank] += static_cast<std::size_t>(std::abs(size));
        }
        merged.push_back(merge_heads(parts));
    }
    return merged;
}

/// One pass: the root serves the merged heads, every rank gets the outcome.
Served serve_everywhere(comm::Communicator& communicator, const std::vector<Head>& mine, std::size_t turn,
                        const Limits& limits, const Request& request) {
    const auto lists = gather_heads(communicator, mine);
    Served served;
    if (communicator.is_root()) served = serve(lists, turn, limits, request);
    std::array<std::int64_t, 2> outcome{static_cast<std::int64_t>(served.rows.size()), std::int64_t{served.finished}};
    communicator.broadcast(std::span<std::int64_t>(outcome));
    served.rows.resize(static_cast<std::size_t>(outcome[0]));
    served.finished = outcome[1] != 0;
    communicator.broadcast(std::span<std::int64_t>(served.rows));
    return served;
}

}  // namespace

std::vector<std::string> names_of(const std::vector<Figure>& figures) {
    std::vector<std::string> names;
    for (const auto& figure : figures) names.push_back(figure.name);
    return names;
}

namespace {

std::int64_t rows_at_once(std::int64_t columns) {
    return std::max<std::int64_t>(1, read_block_bytes / (std::max<std::int64_t>(1, columns) * 4));
}

}  // namespace

double read_bytes(std::int64_t rows, std::int64_t columns) {
    return sizeof(float) * static_cast<double>(std::min(rows, rows_at_once(columns)) * columns);
}

void Shard::for_each_row(const std::function<void(std::int64_t row, std::span<const float> influence)>& take) const {
    const auto width = static_cast<std::size_t>(columns);
    const auto most = rows_at_once(columns);
    std::vector<float> block(static_cast<std::size_t>(std::min(most, rows)) * width);
    for (std::int64_t done = 0; done < rows; done += most) {
        const auto count = std::min(most, rows - done);
        read(first_row + done, count, std::span(block).first(static_cast<std::size_t>(count) * width));
        for (std::int64_t i = 0; i < count; ++i)
            take(first_row + done + i, std::span(block).subspan(static_cast<std::size_t>(i) * width, width));
    }
}

std::vector<std::int32_t> interleave_tasks(std::span<const std::int32_t> column_task, std::int32_t tasks) {
    std::vector<std::int32_t> seen(static_cast<std::size_t>(tasks), 0);
    std::vector<std::int32_t> turn;  // a column's number within its task
    for (const std::int32_t task : column_task) turn.push_back(seen[static_cast<std::size_t>(task)]++);
    std::vector<std::int32_t> order(column_task.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
        const auto i = static_cast<std::size_t>(a);
        const auto j = static_cast<std::size_t>(b);
        return std::pair(turn[i], column_task[i]) < std::pair(turn[j], column_task[j]);
    });
    return order;
}

// Who runs: all ranks. A pass finds each list's head on every shard, the root merges and serves them, and all learn the
// picks. Picks are final: when a head runs out, the next pass looks, twice as deep, at the rows that are left. Each
// pass picks at least one sample, and its memory is bounded whatever the budget. Depths depend on the rank count, picks
// do not.
Selection select(comm::Communicator& communicator, const Shard& shard, const Request& request) {
    check_budget(request.budget);
    const Lists lists(request);
    const auto list_count = static_cast<std::int64_t>(lists.count());
    OpenRows open(shard, request);
    const auto most = std::max<std::int64_t>(
        1, gathered_bytes / (static_cast<std::int64_t>(sizeof(Candidate)) * list_count * communicator.size()));
    auto depth = std::min(most, 16 + 2 * (expected_picks(request) / list_count));
    auto heads = open.heads(lists, static_cast<std::size_t>(depth));

    auto limits = limits_of(request);
    auto counts = open.count(limits.per_source.size());
    communicator.all_reduce(std::span<std::int64_t>(counts), comm::Reduction::sum);
    limits.samples = samples_to_pick(request, counts, limits);

    Selection selection;
    while (true) {
        const auto served =
            serve_everywhere(communicator, heads, selection.picks.size() % lists.count(), limits, request);
        for (const std::int64_t row : served.rows) {
            const auto i = static_cast<std::size_t>(row);
            selection.picks.push_back({row, lists.column(selection.picks.size() % lists.count())});
            selection.tokens += request.tokens[i];
            limits.take(request.source[i], request.tokens[i]);
        }
        if (served.finished) break;
        open.close(served.rows, limits.per_source);
        depth = std::min(most, 2 * depth);
        heads = open.heads(lists, static_cast<std::size_t>(depth));
    }
    if (selection.picks.empty() && !request.budget.at_most) throw no_room_for_first(limits);
    return selection;
}

}  // namespace idistill::selection
