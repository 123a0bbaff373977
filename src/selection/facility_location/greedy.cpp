#include "greedy.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <queue>
#include <tuple>
#include <utility>

#include "idistill/base/philox.hpp"
#include "idistill/base/progress.hpp"

namespace idistill::selection {
namespace {

constexpr double shown_flops = 1e11;  // so many are worth a line of progress
constexpr double pick_flops = 5e6;    // that ranks could do while they agree on a pick
constexpr double failure = 0.01;      // epsilon of stochastic greedy

/// A gain as it was in some round, and so at most so large now.
struct Bound {
    double gain = 0.0;
    double alone = 0.0;  ///< its gain before any pick, where that is known: where nothing is left to gain, the order
    std::int64_t row = 0;
    std::int64_t round = 0;  ///< number of picks that it was computed after
};

struct WorseBound {
    bool operator()(const Bound& a, const Bound& b) const {
        return std::tuple(a.gain, a.alone, b.row) < std::tuple(b.gain, b.alone, a.row);
    }
};

/// Gains as they are asked for, counted and shown.
class Gains {
public:
    Gains(comm::Communicator& comm, Objective& objective) : comm_(comm), objective_(objective) {}

    [[nodiscard]] std::vector<double> of(std::span<const std::int64_t> rows, bool keep) {
        computed_ += std::ssize(rows);
        return objective_.gains(rows, keep);
    }
    /// Of all of them.
    [[nodiscard]] std::vector<double> of_all(std::span<const std::int64_t> rows, const char* title) {
        const auto progress = progress_of(title, std::ssize(rows), flops_of_all(rows.size()));
        std::vector<double> all;
        for (std::size_t first = 0; first < rows.size(); first += most_gains) {
            const auto part = rows.subspan(first, std::min(most_gains, rows.size() - first));
            const auto gains = of(part, false);
            all.insert(all.end(), gains.begin(), gains.end());
            if (progress) progress->add({std::ssize(part), 0, static_cast<double>(part.size())});
        }
        return all;
    }
    /// Null where it is not worth it, and on other ranks than the root.
    [[nodiscard]] std::unique_ptr<Progress> progress_of(const char* title, std::int64_t samples, double flops) const {
        if (!comm_.is_root() || flops + pick_flops * static_cast<double>(samples) < shown_flops) return nullptr;
        return std::make_unique<Progress>(title, ProgressAmount{samples, 0, static_cast<double>(samples)},
                                          ProgressAmount{});
    }
    void add(std::int64_t row) { objective_.add(row); }
    [[nodiscard]] double flops_of_all(std::size_t candidates) const {
        return objective_.gain_flops() * static_cast<double>(candidates);
    }
    [[nodiscard]] std::int64_t computed() const { return computed_; }

private:
    comm::Communicator& comm_;
    Objective& objective_;
    std::int64_t computed_ = 0;
};

/// Candidates by what their gains can be at most.
class LazyQueue {
public:
    LazyQueue(std::span<const std::int64_t> rows, std::span<const double> gains, std::int64_t round) {
        std::vector<Bound> all;
        all.reserve(rows.size());
        for (std::size_t i = 0; i < rows.size(); ++i)
            all.push_back({.gain = gains[i], .alone = round == 0 ? gains[i] : 0.0, .row = rows[i], .round = round});
        bounds_ = Queue(WorseBound(), std::move(all));
    }

    /// Takes out the candidate of largest gain of the sources that have room; those of others are passed over from then
    /// on. Batches of bounds that are not known to be below it are computed, at most `most` together.
    std::optional<Bound> next(Gains& gains, std::int64_t round, const Request& request, const Limits& limits,
                              std::size_t most) {
        for (std::size_t size = std::min<std::size_t>(8, most);; size = std::min(2 * size, most)) {
            std::vector<std::int64_t> stale;
            std::vector<double> alone;
            while (!bounds_.empty() && stale.size() < size) {
                const auto bound = bounds_.top();
                if (is_exact(bound, round) && has_room(bound, request, limits)) break;
                bounds_.pop();
                if (has_room(bound, request, limits)) {
                    stale.push_back(bound.row);
                    alone.push_back(bound.alone);
                } else {
                    passed_over_.push_back(bound);
                }
            }
            if (stale.empty()) break;
            const auto now = gains.of(stale, true);
            for (std::size_t i = 0; i < stale.size(); ++i) bounds_.push({now[i], alone[i], stale[i], round});
        }
        if (bounds_.empty()) return std::nullopt;
        const auto best = bounds_.top();
        bounds_.pop();
        return best;
    }

    /// A candidate that was taken out and does not fit.
    void put_back(const Bound& bound) { bounds_.push(bound); }

    /// What was passed over counts again.
    void reopen() {
        for (const auto& bound : std::exchange(passed_over_, {})) bounds_.push(bound);
    }

private:
    using Queue = std::priority_queue<Bound, std::vector<Bound>, WorseBound>;

    static bool is_exact(const Bound& bound, std::int64_t round) { return bound.round == round || bound.gain == 0.0; }
    static bool has_room(const Bound& bound, const Request& request, const Limits& limits) {
        return limits.has_room(request.source[static_cast<std::size_t>(bound.row)]);
    }

    Queue bounds_;
    std::vector<Bound> passed_over_;
};

/// Picks and what is left to pick.
class Picking {
public:
    Picking(const Request& request, Limits limits) : request_(request), limits_(std::move(limits)) {}

    [[nodiscard]] bool wants_more() const { return limits_.samples > 0; }
    [[nodiscard]] const Limits& limits() const { return limits_; }
    [[nodiscard]] std::int64_t round() const { return std::ssize(subset_.rows); }
    /// False where its tokens no longer fit.
    [[nodiscard]] bool take(const Bound& best, Gains& gains) {
        const auto i = static_cast<std::size_t>(best.row);
        if (request_.tokens[i] > limits_.tokens) return false;
        limits_.take(request_.source[i], request_.tokens[i]);
        gains.add(best.row);
        subset_.rows.push_back(best.row);
        subset_.report.objective += best.gain;
        if (best.gain == 0.0) ++subset_.report.without_gain;
        return true;
    }
    [[nodiscard]] const Subset& subset() const { return subset_; }

private:
    const Request& request_;
    Limits limits_;
    Subset subset_;
};

constexpr std::size_t lazy_batch = 64;

/// What is left in the queue is what was not picked.
LazyQueue pick_exactly(Gains& gains, std::span<const std::int64_t> candidates, const Request& request,
                       Picking& picking) {
    LazyQueue queue(candidates, gains.of_all(candidates, "first gains"), 0);
    const auto progress = gains.progress_of("select", picking.limits().samples, gains.flops_of_all(candidates.size()));
    while (picking.wants_more()) {
        const auto best = queue.next(gains, picking.round(), request, picking.limits(), lazy_batch);
        if (!best) break;
        if (!picking.take(*best, gains)) {
            queue.put_back(*best);
            break;
        }
        if (progress) progress->add({1, 0, 1.0});
    }
    return queue;
}

/// Draws from candidates that are still open, each equally often.
class Draws {
public:
    Draws(std::vector<std::int64_t> candidates, const Request& request, std::int64_t picks)
        : open_(std::move(candidates)),
          random_(request.seed, "selection", "stochastic greedy"),
          size_(static_cast<std::size_t>(std::ceil(static_cast<double>(open_.size()) * std::log(1.0 / failure) /
                                                   static_cast<double>(std::max<std::int64_t>(1, picks))))) {}

    [[nodiscard]] bool empty() const { return open_.empty(); }
    /// Those of one round come to the front.
    [[nodiscard]] std::span<const std::int64_t> draw(std::int64_t round) {
        const auto count = std::min(size_, open_.size());
        for (std::size_t i = 0; i < count; ++i)
            std::swap(open_[i], open_[i + random_.below(open_.size() - i, static_cast<std::uint64_t>(round), i)]);
        return std::span(open_).first(count);
    }
    void remove(std::size_t place) {
        open_[place] = open_.back();
        open_.pop_back();
    }

private:
    std::vector<std::int64_t> open_;
    Philox random_;
    std::size_t size_;
};

void pick_stochastically(Gains& gains, std::span<const std::int64_t> candidates, const Request& request,
                         Picking& picking) {
    const auto expected = std::min(expected_picks(request), picking.limits().samples);
    const double flops = gains.flops_of_all(candidates.size());
    Draws draws({candidates.begin(), candidates.end()}, request, expected);
    const auto progress = gains.progress_of("select", picking.limits().samples, flops);
    while (picking.wants_more() && !draws.empty()) {
        const auto drawn = draws.draw(picking.round());
        Bound best{.gain = -1.0, .row = -1};
        std::size_t place = 0;
        std::vector<std::size_t> closed;
        for (std::size_t first = 0; first < drawn.size(); first += most_gains) {
            const auto part = drawn.subspan(first, std::min(most_gains, drawn.size() - first));
            const auto now = gains.of(part, true);
            for (std::size_t i = 0; i < part.size(); ++i) {
                if (!picking.limits().has_room(request.source[static_cast<std::size_t>(part[i])])) {
                    closed.push_back(first + i);
                    continue;
                }
                const Bound bound{.gain = now[i], .row = part[i]};
                if (best.row >= 0 && WorseBound()(bound, best)) continue;
                best = bound;
                place = first + i;
            }
        }
        if (best.row >= 0) {
            if (!picking.take(best, gains)) break;
            closed.push_back(place);
            if (progress) progress->add({1, 0, 1.0});
        }
        std::sort(closed.rbegin(), closed.rend());
        for (const auto one : closed) draws.remove(one);
    }
}

/// Candidates that are none of the picks; both ascending.
std::vector<std::int64_t> without(std::span<const std::int64_t> candidates, std::vector<std::int64_t> picks) {
    std::sort(picks.begin(), picks.end());
    std::vector<std::int64_t> left;
    std::set_difference(candidates.begin(), candidates.end(), picks.begin(), picks.end(), std::back_inserter(left));
    return left;
}

/// Most samples that a set can have within the limits, from below the shortest.
std::int64_t most_samples(std::span<const std::int64_t> candidates, const Request& request, const Limits& limits) {
    if (!request.budget.tokens) return limits.samples;
    std::vector<std::int64_t> lengths;
    for (const auto row : candidates) lengths.push_back(request.tokens[static_cast<std::size_t>(row)]);
    std::sort(lengths.begin(), lengths.end());
    std::int64_t room = limits.tokens;
    std::int64_t count = 0;
    for (const auto length : lengths) {
        room -= length;
        if (room < 0) break;
        ++count;
    }
    return std::min(count, limits.samples);
}

}  // namespace

// No set of m samples has more than f(A) and the m largest gains over A: f(S) <= f(S + A) <= f(A) + sum over S of
// gains.
Subset choose_greedily(comm::Communicator& comm, Objective& objective, std::span<const std::int64_t> candidates,
                       const Request& request, const Limits& limits, bool stochastic) {
    Gains gains(comm, objective);
    Picking picking(request, limits);
    std::optional<LazyQueue> rest;
    if (stochastic) {
        pick_stochastically(gains, candidates, request, picking);
        const auto left = without(candidates, picking.subset().rows);
        rest.emplace(left, gains.of_all(left, "bound"), picking.round());
    } else {
        rest.emplace(pick_exactly(gains, candidates, request, picking));
        rest->reopen();
    }
    auto subset = picking.subset();
    subset.report.bound = subset.report.objective;
    auto open = limits;
    for (auto most = most_samples(candidates, request, limits); most > 0; --most) {
        const auto best = rest->next(gains, picking.round(), request, open, most_gains);
        if (!best || best->gain == 0.0) break;
        subset.report.bound += best->gain;
        --open.per_source[static_cast<std::size_t>(request.source[static_cast<std::size_t>(best->row)])];
    }
    subset.report.gains = gains.computed();
    return subset;
}

}  // namespace idistill::selection
