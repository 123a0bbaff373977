#pragma once
// Settings of the gradient influence.

#include <cstdint>
#include <optional>
#include <string>

namespace idistill::influence {

enum class Normalize : std::uint8_t { cosine, none };
enum class SketchKind : std::uint8_t { tensor, kronecker, hadamard, rademacher, none };

struct GradientSettings {
    std::string optimizer;                 ///< file of its state; empty: a plain gradient step
    std::string parameters = "down_proj";  ///< regex on the names of linear layers
    Normalize normalize = Normalize::cosine;
    /// Pool samples whose mean unit gradient m (with an optimizer of a*g) is projected out of every target's gradient:
    /// t - (t.m / m.m) m. Idistill's own: all gradients share a direction that outweighs the task. 0: none, as
    /// published.
    std::int64_t contrast = 128;
    SketchKind sketch = SketchKind::tensor;
    std::optional<std::int64_t> sketch_dim;  ///< numbers of one sketch, all layers together
    std::int64_t curvature_rank = 16;        ///< of the Hessian's decomposition
    /// sketch_dim, or what keeps correlation with exact influence above 0.99 (docs/method.md, Influence): with an
    /// optimizer's factors influences vary less than without, and the noise is to as well.
    [[nodiscard]] std::int64_t sketch_numbers() const {
        return sketch_dim.value_or(optimizer.empty() ? std::int64_t{98304} : std::int64_t{655360});
    }
};

}  // namespace idistill::influence
