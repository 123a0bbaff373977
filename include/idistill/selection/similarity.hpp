#pragma once
// How well one sample stands for another, from a short list of numbers per sample (its factors): never an N x N array.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

namespace idistill::selection {

/// Samples that are represented lie side by side in tiles of this many: number f of sample `lane` is at
/// [f * similarity_lanes + lane].
inline constexpr std::int64_t similarity_lanes = 32;

/// Similarity s_ij of a represented sample i by a candidate j; it need not be symmetric. Samples are rows of the pool.
/// Everything is of this rank alone.
class Similarity {
public:
    virtual ~Similarity() = default;

    /// F: numbers of a sample.
    [[nodiscard]] virtual std::int64_t width() const = 0;
    /// Their factors (rows x F), of any rows in any order. A row with a number that is not finite stands for nothing
    /// and is never selected.
    virtual void read(std::span<const std::int64_t> rows, std::span<float> out) const = 0;
    /// `tile` (F x similarity_lanes): factors of represented samples; `candidates` (m x F); out (m x similarity_lanes).
    /// The bits of a similarity depend on the factors of its two samples alone, not on what stands beside them.
    virtual void compare(std::span<const float> tile, std::span<const float> candidates,
                         std::span<float> out) const = 0;
    /// The similarity that counts as none: smaller ones do not count as less.
    [[nodiscard]] virtual float none() const { return 0.0F; }
    /// The similarity that counts as full, as influence of 1 does where influence is scaled to 0..1.
    [[nodiscard]] virtual float full() const { return 1.0F; }
};

/// Reads (rows x width).
using ReadFactors = std::function<void(std::span<const std::int64_t> rows, std::span<float> out)>;

/// Cosine of the rows that `read` gives; below 0 it counts as none. A row of zeros has no direction: it comes out as
/// not finite.
std::unique_ptr<Similarity> cosine_similarity(std::int64_t width, ReadFactors read);

}  // namespace idistill::selection
