#include "pair_similarity.hpp"

#include <utility>

namespace idistill::propagation {
namespace {

class PairSimilarity final : public selection::Similarity {
public:
    PairSimilarity(const InfluenceNetwork& network, const LabelRange& labels, selection::ReadFactors read)
        : network_(network), labels_(labels), read_(std::move(read)) {}

    [[nodiscard]] std::int64_t width() const override { return 2 * network_.half_width(); }
    void read(std::span<const std::int64_t> rows, std::span<float> out) const override { read_(rows, out); }
    void compare(std::span<const float> tile, std::span<const float> candidates, std::span<float> out) const override {
        static_assert(selection::similarity_lanes == InfluenceNetwork::tile_lanes);
        const auto right = tile.subspan(tile.size() / 2);  // behind the left halves
        network_.tile_scores(candidates, width(), right, out);
    }
    [[nodiscard]] float none() const override { return labels_.least; }
    [[nodiscard]] float full() const override { return labels_.largest; }

private:
    const InfluenceNetwork& network_;
    LabelRange labels_;
    selection::ReadFactors read_;
};

}  // namespace

std::unique_ptr<selection::Similarity> pair_similarity(const InfluenceNetwork& network, const LabelRange& labels,
                                                       selection::ReadFactors read) {
    return std::make_unique<PairSimilarity>(network, labels, std::move(read));
}

}  // namespace idistill::propagation
