#include "pair_similarity.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

namespace idistill::propagation {
namespace {

using torch::Tensor;

class PairSimilarity final : public selection::Similarity {
public:
    PairSimilarity(const InfluenceNetwork& network, float none, selection::ReadFactors read)
        : network_(network), none_(none), read_(std::move(read)) {}

    [[nodiscard]] std::int64_t width() const override { return 2 * network_.half_width(); }
    void read(std::span<const std::int64_t> rows, std::span<float> out) const override { read_(rows, out); }
    void compare(std::span<const float> tile, std::span<const float> candidates, std::span<float> out) const override {
        const auto half = network_.half_width();
        const auto represented = view(tile, selection::similarity_lanes).narrow(0, half, half).t().contiguous();
        const auto scores = network_.scores(view(candidates, width()).narrow(1, 0, half), represented);
        std::copy_n(scores.const_data_ptr<float>(), out.size(), out.begin());
    }
    [[nodiscard]] float none() const override { return none_; }

private:
    /// (rows x columns)
    static Tensor view(std::span<const float> numbers, std::int64_t columns) {
        return at::from_blob(const_cast<float*>(numbers.data()), {std::ssize(numbers) / columns, columns},
                             at::TensorOptions().dtype(torch::kFloat32));
    }

    const InfluenceNetwork& network_;
    float none_;
    selection::ReadFactors read_;
};

}  // namespace

std::unique_ptr<selection::Similarity> pair_similarity(const InfluenceNetwork& network, float none,
                                                       selection::ReadFactors read) {
    return std::make_unique<PairSimilarity>(network, none, std::move(read));
}

}  // namespace idistill::propagation
