#pragma once
// The InfluenceNetwork of NN-CIFT (arXiv 2502.09969): a small network of the embeddings of two samples, whose first
// layer is taken apart, W [e_i, 0, e_j] = A e_i + B e_j: a half of it is computed once per sample, and a pair costs
// `width` additions.

#include <torch/types.h>

#include <cstdint>
#include <span>
#include <vector>

namespace idistill::propagation {

/// Of a pair [e_i, 0, e_j], or of a sample alone.
struct NetworkShape {
    std::int64_t embedding = 0;  ///< numbers of an embedding, e
    std::int64_t width = 100;    ///< of a hidden layer, H
    std::int64_t depth = 1;      ///< hidden layers, ReLU each
    std::int64_t outputs = 1;    ///< of a sample alone; a pair has one
    bool pairs = true;
    bool symmetric = false;  ///< of pairs: the mean of score(i, j) and score(j, i)
    bool residual = false;   ///< of pairs: what a line in the cosine of the embeddings does not say

    [[nodiscard]] std::int64_t inputs() const { return pairs ? 2 * embedding : embedding; }
    /// Weights and biases. The weights of the constant 0 between the embeddings of a pair meet nothing: there are none.
    [[nodiscard]] std::int64_t parameters() const;
    /// FLOPs of learning from one pair or sample once: forward, and the gradients of all weights.
    [[nodiscard]] double learning_flops() const;
    /// FLOPs of what is done once for an embedding on one side of a pair, and then of a pair; of a sample alone the
    /// first is all.
    [[nodiscard]] double half_flops() const;
    [[nodiscard]] double pair_flops() const;
};

/// Views of a vector of NetworkShape::parameters() numbers, layer after layer: weights, then biases.
struct NetworkLayers {
    std::vector<torch::Tensor> weight;  ///< (outputs x inputs) of every layer
    std::vector<torch::Tensor> bias;    ///< (outputs)
};
NetworkLayers layers_of(const NetworkShape& shape, const torch::Tensor& parameters);

/// What stands before and behind the layers: they see e / length, and what they give is multiplied by `gain` and added
/// to offset + slope cos(e_i, e_j).
struct NetworkScaling {
    double length = 1.0;
    std::vector<double> gain, offset;  ///< of every output
    double slope = 0.0;                ///< 0 without NetworkShape::residual
};

/// Prediction; on the CPU, fp32, scaling worked into the weights. A row's numbers depend on its place among the rows it
/// comes with, as those of a matrix product do; those of a pair on nothing but its two halves. What is not finite in an
/// embedding makes the scores of that sample alone not-a-number.
class InfluenceNetwork {
public:
    /// `parameters` (NetworkShape::parameters()) fp32.
    InfluenceNetwork(const NetworkShape& shape, const torch::Tensor& parameters, const NetworkScaling& scaling);

    [[nodiscard]] const NetworkShape& shape() const { return shape_; }
    /// Numbers of a half.
    [[nodiscard]] std::int64_t half_width() const;

    /// Halves of samples as the first of a pair, and as the second: (n x half_width()) of embeddings (n x e).
    [[nodiscard]] torch::Tensor left(const torch::Tensor& embedding) const;
    [[nodiscard]] torch::Tensor right(const torch::Tensor& embedding) const;
    /// (n x m) of left halves (n) and right halves (m).
    [[nodiscard]] torch::Tensor scores(const torch::Tensor& left, const torch::Tensor& right) const;

    /// The same of one hidden layer without a residual: `left` (m) halves, `stride` numbers apart; `right` a tile
    /// (half_width() x tile_lanes), number h of half `lane` at [h * tile_lanes + lane]; out (m x tile_lanes).
    void tile_scores(std::span<const float> left, std::int64_t stride, std::span<const float> right,
                     std::span<float> out) const;
    static constexpr std::int64_t tile_lanes = 32;

    /// (n x outputs) of samples alone, of embeddings (n x e).
    [[nodiscard]] torch::Tensor of_samples(const torch::Tensor& embedding) const;

private:
    [[nodiscard]] torch::Tensor half(const torch::Tensor& embedding, const torch::Tensor& first,
                                     const torch::Tensor& second) const;
    [[nodiscard]] torch::Tensor deeper(torch::Tensor hidden) const;
    [[nodiscard]] torch::Tensor deep_scores(const torch::Tensor& left, const torch::Tensor& right) const;

    NetworkShape shape_;
    std::vector<torch::Tensor> weight_, bias_;  ///< of the layers behind the first
    torch::Tensor first_, second_;              ///< (e x H) of either side of a pair
    torch::Tensor first_bias_;                  ///< (H)
    torch::Tensor output_;                      ///< (halves' hidden numbers) of a network of one hidden layer
    float output_bias_ = 0.0F;                  ///< of the same
    double slope_ = 0.0;
};

}  // namespace idistill::propagation
