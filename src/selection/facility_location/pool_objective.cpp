#include "pool_objective.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <utility>

#include "idistill/base/finite.hpp"
#include "idistill/base/progress.hpp"

namespace idistill::selection {
namespace {

constexpr auto lanes = static_cast<std::size_t>(similarity_lanes);
constexpr float infinite = std::numeric_limits<float>::infinity();
constexpr std::size_t read_rows = 1024;
constexpr double shown_flops = 1e11;  // so many are worth a line of progress

constexpr std::int64_t at_once_bytes = std::int64_t{64} << 20;

/// Of one candidate: twice what it can have, as its list grows by doubling.
std::int64_t candidate_bytes(std::int64_t rows) {
    return 2 * std::int64_t{sizeof(KeptSimilarity)} * (rows + similarity_lanes);
}

std::size_t kept_at_once(std::int64_t rows) {
    return static_cast<std::size_t>(
        std::clamp<std::int64_t>(at_once_bytes / candidate_bytes(rows), 1, std::int64_t{most_gains}));
}

/// Similarities of one candidate above the cover, as they come.
class AboveCover {
public:
    /// Those of a tile whose first sample is at `place`.
    void add(std::size_t place, const float* similarity, const float* cover, const float* cap) {
        if (found_ + lanes > entries_.size()) entries_.resize(2 * entries_.size() + lanes);
        for (std::size_t lane = 0; lane < lanes; ++lane) {
            entries_[found_] = {static_cast<std::uint32_t>(place + lane), std::min(similarity[lane], cap[lane])};
            found_ += entries_[found_].value > cover[lane] ? 1 : 0;
        }
    }
    [[nodiscard]] std::span<const KeptSimilarity> entries() const { return std::span(entries_).first(found_); }

private:
    std::vector<KeptSimilarity> entries_;
    std::size_t found_ = 0;
};

class PoolObjective final : public Objective {
public:
    PoolObjective(comm::Communicator& comm, const Similarity& similarity, RepresentedSamples samples, double kept_bytes)
        : comm_(comm), similarity_(similarity), samples_(std::move(samples)), kept_(kept_bytes) {}

    std::vector<double> gains(std::span<const std::int64_t> rows, bool keep) override {
        BlockGains gains(rows.size(), samples_.blocks().count());
        std::vector<std::size_t> unknown;
        for (std::size_t i = 0; i < rows.size(); ++i) {
            if (kept_.find(rows[i]) == nullptr)
                unknown.push_back(i);
            else
                add_kept(rows[i], i, gains);
        }
        const auto at_once = keep ? kept_at_once(samples_.rows().count) : most_gains;
        for (std::span<const std::size_t> rest(unknown); !rest.empty();) {
            const auto part = rest.first(std::min(at_once, rest.size()));
            add_unknown(rows, part, keep, gains);
            rest = rest.subspan(part.size());
        }
        return gains.over_ranks(comm_);
    }

    void add(std::int64_t row) override {
        if (kept_.find(row) != nullptr) {
            kept_.visit(row, samples_.cover(),
                        [&](std::uint32_t place, float value) { samples_.cover_to(place, value); });
            kept_.forget(row);
            return;
        }
        const auto factors = read({&row, 1});
        std::array<float, lanes> similarity{};
        for (std::size_t tile = 0; tile < samples_.tiles(); ++tile) {
            similarity_.compare(samples_.tile(tile), factors, similarity);
            for (std::size_t lane = 0; lane < lanes; ++lane) samples_.cover_to(tile * lanes + lane, similarity[lane]);
        }
    }

    [[nodiscard]] double gain_flops() const override {
        return 2.0 * static_cast<double>(samples_.rows().count * similarity_.width());
    }

private:
    [[nodiscard]] std::vector<float> read(std::span<const std::int64_t> rows) const {
        std::vector<float> factors(rows.size() * static_cast<std::size_t>(similarity_.width()));
        similarity_.read(rows, factors);
        return factors;
    }

    void add_kept(std::int64_t row, std::size_t gain, BlockGains& gains) {
        ListedGain listed(gains, gain, samples_.blocks(), samples_.first_block());
        const auto cover = samples_.cover();
        kept_.visit(row, cover, [&](std::uint32_t place, float value) { listed.add(place, value - cover[place]); });
    }

    void add_unknown(std::span<const std::int64_t> rows, std::span<const std::size_t> unknown, bool keep,
                     BlockGains& gains) {
        std::vector<std::int64_t> asked;
        for (const auto i : unknown) asked.push_back(rows[i]);
        const auto factors = read(asked);
        std::vector<float> similarity(asked.size() * lanes);
        std::vector<double> apart(asked.size() * gain_sums, 0.0);
        std::vector<AboveCover> above(keep ? asked.size() : 0);
        const auto cover = samples_.cover(), cap = samples_.cap();
        const auto tiles_of_block = static_cast<std::size_t>(samples_.blocks().rows() / similarity_lanes);
        for (std::size_t tile = 0; tile < samples_.tiles(); ++tile) {
            similarity_.compare(samples_.tile(tile), factors, similarity);
            for (std::size_t i = 0; i < asked.size(); ++i)
                add_gains(&similarity[i * lanes], &cover[tile * lanes], &cap[tile * lanes], &apart[i * gain_sums]);
            for (std::size_t i = 0; i < above.size(); ++i)
                above[i].add(tile * lanes, &similarity[i * lanes], &cover[tile * lanes], &cap[tile * lanes]);
            if ((tile + 1) % tiles_of_block != 0 && tile + 1 != samples_.tiles()) continue;
            for (std::size_t i = 0; i < asked.size(); ++i)
                gains.set(unknown[i], samples_.first_block() + tile / tiles_of_block, &apart[i * gain_sums]);
            std::fill(apart.begin(), apart.end(), 0.0);
        }
        for (std::size_t i = 0; i < above.size(); ++i) kept_.keep(asked[i], above[i].entries(), 0.0);
    }

    comm::Communicator& comm_;
    const Similarity& similarity_;
    RepresentedSamples samples_;
    KeptGains kept_;
};

}  // namespace

RepresentedSamples::RepresentedSamples(comm::Communicator& comm, const Similarity& similarity,
                                       std::vector<std::uint8_t>& usable, const CoverLimits& limits)
    : blocks_(std::ssize(usable)),
      mine_(blocks_.of_rank(comm)),
      tile_numbers_(lanes * static_cast<std::size_t>(similarity.width())) {
    const auto places = static_cast<std::size_t>(CoverBlocks::whole_tiles(mine_.count));
    const auto width = static_cast<std::size_t>(similarity.width());
    factors_.assign(places * width, 0.0F);
    cover_.assign(places, infinite);
    cap_.assign(places, infinite);
    std::vector<std::int64_t> rows;
    std::vector<float> read(std::min(read_rows, places) * width);
    for (auto row = mine_.first; row < mine_.end(); ++row) {
        if (usable[static_cast<std::size_t>(row)] != 0) rows.push_back(row);
        if (rows.size() < read_rows && row + 1 < mine_.end()) continue;
        const auto numbers = std::span(read).first(rows.size() * width);
        similarity.read(rows, numbers);
        for (std::size_t i = 0; i < rows.size(); ++i) {
            const auto own = numbers.subspan(i * width, width);
            if (!all_finite(own)) {
                usable[static_cast<std::size_t>(rows[i])] = 0;
                continue;
            }
            const auto place = static_cast<std::size_t>(rows[i] - mine_.first);
            auto* to = &factors_[place / lanes * tile_numbers_ + place % lanes];
            for (std::size_t f = 0; f < width; ++f) to[f * lanes] = own[f];
            cover_[place] = similarity.none();
            if (!limits.most.empty()) cap_[place] = limits.most[place];
        }
        rows.clear();
    }
    // Each rank knows of its own rows: a row is left out where its rank says so.
    comm.all_reduce(std::span(usable), comm::Reduction::min);
    if (!limits.held.empty()) cover_by_held(similarity, limits, comm.is_root());
}

void RepresentedSamples::cover_by_held(const Similarity& similarity, const CoverLimits& limits, bool shows) {
    const auto width = static_cast<std::size_t>(similarity.width());
    const auto count = limits.held.size() / width;
    const float none = similarity.none();
    std::vector<float> compared(std::min(most_gains, count) * lanes);
    std::optional<Progress> progress;
    const auto all = static_cast<std::int64_t>(tiles() * lanes);
    if (shows && 2.0 * static_cast<double>(all) * static_cast<double>(limits.held.size()) > shown_flops)
        progress.emplace("covered by what is held", ProgressAmount{all, 0, static_cast<double>(all)}, ProgressAmount{});
    for (std::size_t tile = 0; tile < tiles(); ++tile) {
        std::array<float, lanes> most;
        most.fill(none);
        for (std::size_t first = 0; first < count; first += most_gains) {
            const auto held = std::min(most_gains, count - first);
            const auto out = std::span(compared).first(held * lanes);
            similarity.compare(this->tile(tile), std::span(limits.held).subspan(first * width, held * width), out);
            for (std::size_t i = 0; i < out.size(); ++i) most[i % lanes] = std::max(most[i % lanes], out[i]);
        }
        for (std::size_t lane = 0; lane < lanes; ++lane) {
            const double covered =
                static_cast<double>(none) + limits.held_weight * static_cast<double>(most[lane] - none);
            cover_to(tile * lanes + lane, static_cast<float>(covered));
        }
        if (progress) progress->add({similarity_lanes, 0, static_cast<double>(lanes)});
    }
}

double being_kept_bytes(std::int64_t rows) {
    return static_cast<double>(kept_at_once(rows)) * static_cast<double>(candidate_bytes(rows));
}

std::unique_ptr<Objective> pool_objective(comm::Communicator& comm, const Similarity& similarity,
                                          RepresentedSamples samples, double kept_bytes) {
    return std::make_unique<PoolObjective>(comm, similarity, std::move(samples), kept_bytes);
}

}  // namespace idistill::selection
