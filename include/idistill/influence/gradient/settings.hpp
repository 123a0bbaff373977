#pragma once
// Settings of the gradient influence.

#include <cstdint>
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
    std::int64_t sketch_dim = 98304;   ///< numbers of one sketch, all layers together
    std::int64_t curvature_rank = 16;  ///< of the Hessian's decomposition
};

}  // namespace idistill::influence
