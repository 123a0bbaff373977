#pragma once
// Learning of a network: mean squared error, Adam, on one rank.

#include <torch/types.h>

#include <cstdint>
#include <span>
#include <vector>

#include "idistill/propagation/influence_network.hpp"

namespace idistill::propagation {

/// Places in Examples::rows and ::columns; of a sample alone the column is 0.
struct Pair {
    std::int32_t row = 0;
    std::int32_t column = 0;
    friend bool operator==(const Pair&, const Pair&) = default;
};

/// What is learnt, as the layers see it: scaled. fp32, contiguous.
struct Examples {
    torch::Tensor rows;     ///< (n x e)
    torch::Tensor columns;  ///< (m x e); undefined: of samples alone
    torch::Tensor labels;   ///< (n x m), or of samples alone (n x outputs)
};

struct LearningSettings {
    double rate = 1e-4;
    std::int64_t batch = 64;
    std::int64_t epoch_batches = 500;  ///< at least, where there are few pairs
};

/// How often an epoch goes through so many pairs. The paper has thousands of batches of them; of a few hundred pairs 20
/// epochs of one pass would be 100 steps, after which the network is almost as it was drawn.
std::int64_t passes_of(std::int64_t pairs, const LearningSettings& settings = {});

/// The order in which a pass takes the pairs: that of the pass before, permuted; a function of seed and passes alone.
void shuffle(std::span<Pair> pairs, std::uint64_t seed, std::int64_t pass);

/// Parameters with the moments of Adam (beta 0.9 and 0.999, epsilon 1e-8).
class Training {
public:
    /// Uniform in +- 1 / sqrt(inputs of the layer), the constant 0 of a pair among them.
    Training(const NetworkShape& shape, std::uint64_t seed, const LearningSettings& settings = {});

    /// A step of Adam for each of the batches that `pairs` is cut into; the last may be smaller. Returns the sum of
    /// squared errors before each step, over pairs and outputs.
    double learn(const Examples& examples, std::span<const Pair> pairs);

    [[nodiscard]] const torch::Tensor& parameters() const { return parameters_; }
    [[nodiscard]] const torch::Tensor& first_moment() const { return first_; }
    [[nodiscard]] const torch::Tensor& second_moment() const { return second_; }
    /// What an earlier start left after so many steps.
    void restore(std::int64_t steps, std::span<const float> parameters, std::span<const float> first,
                 std::span<const float> second);

private:
    double step(const Examples& examples, std::span<const Pair> batch);
    void gather(const Examples& examples, std::span<const Pair> batch);

    NetworkShape shape_;
    LearningSettings settings_;
    torch::Tensor parameters_, gradient_, first_, second_;
    NetworkLayers layers_, gradients_;  ///< views of them
    torch::Tensor inputs_, wanted_;     ///< of the largest batch
    std::int64_t steps_ = 0;
};

}  // namespace idistill::propagation
