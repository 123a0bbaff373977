#include "thresholds.hpp"

#include <algorithm>
#include <cmath>

namespace idistill::selection {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double flat_tolerance = 1e-12;  // of the total: how well it is met where no threshold meets it better
constexpr double tied_tolerance = 1e-12;  // of the total: rows at the threshold itself get no less
constexpr std::size_t piece_numbers = 4;

/// The rows above a threshold: sums over one piece of a function that is linear between the scores.
struct Piece {
    double sum = 0.0;     ///< of the distances of rows between threshold and ceiling
    double inside = 0.0;  ///< how many these are
    double tied = 0.0;    ///< rows at the threshold
    double capped = 0.0;  ///< rows at the ceiling or above
    double full = 0.0;    ///< groups that count with their most weight in place of their rows

    static void add(double distance, double ceiling, std::span<double> numbers) noexcept {
        if (distance < 0.0) return;
        if (distance >= ceiling) {
            numbers[3] += 1.0;
        } else if (distance > 0.0) {
            numbers[0] += distance;
            numbers[1] += 1.0;
        } else {
            numbers[2] += 1.0;
        }
    }
    static Piece of(std::span<const double> numbers, double full = 0.0) noexcept {
        return {numbers[0], numbers[1], numbers[2], numbers[3], full};
    }
    [[nodiscard]] bool same_rows(const Piece& other) const noexcept {
        return inside == other.inside && capped == other.capped && full == other.full;
    }
};

/// Where a falling, piecewise linear function of the threshold is zero: Newton steps, which end at the zero once they
/// stay on its piece; inside a bracket that is halved where they do not get on. Without a ceiling the function is
/// convex, and Newton alone gets there.
class Zero {
public:
    Zero(double start, double total) : total_(total), at_(start), stride_(total) {}

    [[nodiscard]] double at() const noexcept { return at_; }
    [[nodiscard]] bool found() const noexcept { return found_; }
    [[nodiscard]] Threshold result() const noexcept { return result_; }
    [[nodiscard]] static Zero nowhere() {
        Zero zero(0.0, 0.0);
        zero.found_ = true;
        return zero;
    }

    /// The piece at at() and the function's value there.
    void learn(const Piece& piece, double excess) {
        if (piece.inside == 0.0 && std::abs(excess) <= flat_tolerance * total_) {
            end_at({at_, 0.0});
            return;
        }
        const double step = excess / piece.inside;  // infinite on a flat piece
        if ((stepped_ && piece.same_rows(last_piece_)) || at_ + step == at_) {
            finish(piece, excess);
            return;
        }
        (excess > 0.0 ? low_ : high_) = at_;
        if (excess <= 0.0) {
            high_piece_ = piece;
            high_excess_ = excess;
        }
        const bool slow =
            stepped_ && std::abs(excess) > 0.5 * std::abs(last_excess_) && piece.inside > 0.5 * last_piece_.inside;
        last_excess_ = excess;
        last_piece_ = piece;
        stepped_ = false;
        if (const double next = at_ + step; next > low_ && next < high_ && !slow) {
            stepped_ = true;
            at_ = next;
        } else if (low_ == -infinity) {
            at_ -= stride_;
            stride_ *= 2.0;
        } else if (const double middle = low_ + 0.5 * (high_ - low_); middle > low_ && middle < high_) {
            at_ = middle;
        } else {  // between neighbouring numbers: rows tied at the upper one share what is missing
            at_ = high_;
            finish(high_piece_, high_excess_);
        }
    }

private:
    void finish(const Piece& piece, double excess) {
        double moving = piece.inside;
        if (excess < 0.0 && piece.tied > 0.0) {
            if (-excess <= tied_tolerance * total_) excess = 0.0;
            moving += piece.tied;
        }
        end_at({at_, moving > 0.0 ? excess / moving : 0.0});
    }
    void end_at(const Threshold& result) noexcept {
        result_ = result;
        found_ = true;
    }

    double total_;
    double at_;
    double stride_;
    double low_ = -infinity;
    double high_ = 0.0;  // no score is above 0
    Piece high_piece_;
    double high_excess_ = 0.0;
    double last_excess_ = 0.0;
    Piece last_piece_;
    bool stepped_ = false;  // a Newton step led from there to here
    bool found_ = false;
    Threshold result_{-infinity, 0.0};
};

double times(double count, double each) noexcept { return count > 0.0 ? count * each : 0.0; }  // each may be infinite

}  // namespace

WeightRoom room_of(comm::Communicator& communicator, const WeightedProblem& problem,
                   std::span<const std::int32_t> group, std::size_t rows) {
    WeightRoom room{problem.total(), problem.largest, problem.group_most, {}};
    room.rows.assign(room.group_most.size() + 1, 0);
    if (group.empty()) room.rows.back() = static_cast<std::int64_t>(rows);
    for (const auto g : group) ++room.rows[g < 0 ? room.group_most.size() : static_cast<std::size_t>(g)];
    communicator.all_reduce(std::span<std::int64_t>(room.rows), comm::Reduction::sum);
    return room;
}

ThresholdFinder::ThresholdFinder(const BlockSums& sums, const WeightedProblem& problem)
    : sums_(sums), problem_(problem) {
    if (problem.group_most.empty() && problem.largest == infinity) return;
    const auto room = room_of(sums.communicator(), problem, problem.group, problem.row.size());
    for (std::size_t g = 0; g < room.group_most.size(); ++g)
        can_fill_.push_back(times(static_cast<double>(room.rows[g]), room.largest) >
                            room.group_most[g] * (1.0 + flat_tolerance));
    all_full_ = room.most() <= room.total * (1.0 + flat_tolerance);
}

std::vector<Threshold> ThresholdFinder::of_groups(std::span<const double> scores, double lambda) const {
    const double ceiling = lambda * problem_.largest;
    std::vector<Zero> zeros;
    for (std::size_t g = 0; g < can_fill_.size(); ++g) {
        const double most = lambda * problem_.group_most[g];
        zeros.push_back(can_fill_[g] ? Zero(-most, most) : Zero::nowhere());
    }
    while (!std::all_of(zeros.begin(), zeros.end(), [](const Zero& zero) { return zero.found(); })) {
        const auto numbers = sums_(piece_numbers * zeros.size(), [&](std::size_t i, std::span<double> sums) {
            if (problem_.group[i] < 0) return;
            const auto g = static_cast<std::size_t>(problem_.group[i]);
            if (!zeros[g].found())
                Piece::add(scores[i] - zeros[g].at(), ceiling, sums.subspan(piece_numbers * g, piece_numbers));
        });
        for (std::size_t g = 0; g < zeros.size(); ++g) {
            if (zeros[g].found()) continue;
            const auto piece = Piece::of(std::span(numbers).subspan(piece_numbers * g, piece_numbers));
            zeros[g].learn(piece, piece.sum + times(piece.capped, ceiling) - lambda * problem_.group_most[g]);
        }
    }
    std::vector<Threshold> found;
    for (const auto& zero : zeros) found.push_back(zero.result());
    return found;
}

Threshold ThresholdFinder::common(std::span<const double> scores, double lambda, double near,
                                  const Thresholds& found) const {
    const double ceiling = lambda * problem_.largest;
    const double total = lambda * problem_.total();
    Zero zero(near < 0.0 && std::isfinite(near) ? near : -total, total);
    std::vector<bool> full(found.group.size());
    while (!zero.found()) {
        const double at = zero.at();
        double in_groups = 0.0;
        for (std::size_t g = 0; g < full.size(); ++g) {
            full[g] = found.group[g].value() > at;
            if (full[g]) in_groups += lambda * problem_.group_most[g];
        }
        const auto numbers = sums_(piece_numbers, [&](std::size_t i, std::span<double> sums) {
            if (scores[i] < at) return;
            const auto group = full.empty() ? -1 : problem_.group[i];
            if (group < 0 || !full[static_cast<std::size_t>(group)]) Piece::add(scores[i] - at, ceiling, sums);
        });
        const auto piece = Piece::of(numbers, static_cast<double>(std::count(full.begin(), full.end(), true)));
        zero.learn(piece, piece.sum + times(piece.capped, ceiling) + in_groups - total);
    }
    return zero.result();
}

Thresholds ThresholdFinder::find(std::span<const double> scores, double lambda, double near) const {
    Thresholds found;
    if (!can_fill_.empty()) found.group = of_groups(scores, lambda);
    found.common = all_full_ ? Threshold{-infinity, 0.0} : common(scores, lambda, near, found);
    return found;
}

}  // namespace idistill::selection
