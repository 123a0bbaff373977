#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace idistill::propagation {

inline constexpr std::int64_t default_landmarks = 4096;
/// --landmarks auto: begins with the first, doubles, and stops at the last, or where a doubling gains less R2.
inline constexpr std::int64_t first_auto_landmarks = 256;
inline constexpr std::int64_t most_auto_landmarks = 8192;
inline constexpr double least_landmark_gain = 0.01;

struct PropagationSettings {
    std::string member = "kernel-ridge";  ///< --propagation: a name of members.cpp, or none
    /// Nothing: default_landmarks, or all eligible samples if they are fewer; with landmarks_auto at most so many,
    /// nothing: most_auto_landmarks.
    std::optional<std::int64_t> landmarks;
    std::optional<double> landmarks_percent;  ///< of the eligible samples, in place of a number
    bool landmarks_auto = false;              ///< as many as leave-one-out finds worth their cost

    /// Nobody said how many.
    [[nodiscard]] bool landmarks_left_open() const { return !landmarks && !landmarks_percent && !landmarks_auto; }
    /// Times the budget: so many of the best predicted samples get exact influence before selection. 0: none; nothing:
    /// auto.
    std::optional<double> refine = 0.0;
};

enum class KernelChoice : std::uint8_t { automatic, sum, product };

struct KernelRidgeSettings {
    KernelChoice kernel = KernelChoice::automatic;  ///< of the kernels of several embeddings
    bool metadata = true;
    std::optional<double> damping;    ///< nothing: auto
    std::optional<double> bandwidth;  ///< nothing: median, or auto
    bool bandwidth_auto = false;      ///< choose among multiples of the median; only without `bandwidth`
};

struct NetworkSettings {
    std::int64_t width = 100;
    std::int64_t depth = 1;
    bool symmetric = false;
    bool residual = false;
    bool standardise = true;            ///< embeddings and labels, before the network sees them
    std::optional<std::int64_t> pairs;  ///< learnt from, at most; nothing: all
    std::int64_t epochs = 20;           ///< at most
};

}  // namespace idistill::propagation
