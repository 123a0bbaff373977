#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace idistill::selection {

struct SelectionSettings {
    std::string member = "auto";  ///< --selection: a name of members.cpp, or auto until it is resolved
};

/// Exactly one of the first three is set once parsed.
struct BudgetSettings {
    std::optional<std::int64_t> samples;
    std::optional<double> percent;
    std::optional<std::int64_t> tokens;
    std::map<std::string, std::int64_t> source_cap;
};

enum class TopKBy : std::uint8_t { mean, max };

struct TopKSettings {
    TopKBy by = TopKBy::mean;  ///< over tasks
};

enum class Order : std::uint8_t { automatic, second, first };
/// What stands for the targets' curvature at second order.
enum class Curvature : std::uint8_t { fisher, hessian };

struct WeightedSettings {
    Order order = Order::automatic;  ///< automatic until it is resolved
    Curvature curvature = Curvature::fisher;
    std::optional<double> learning_rate;         ///< eta of second order; nothing: auto
    std::optional<double> lambda;                ///< nothing: what gives the budget's number of weights
    std::optional<double> max_weight;            ///< no /weight above it; or, where the next is set, above
    bool max_weight_of_mean = false;             ///< so many times the mean weight of --select samples, N/k
    std::map<std::string, double> source_share;  ///< most of all weight that a source gets, 0 to 1
    /// The number of samples follows from lambda instead of a budget.
    [[nodiscard]] bool leaves_number_open() const { return lambda.value_or(0.0) > 0.0; }
};

/// How a submodular objective is maximised.
enum class Greedy : std::uint8_t { automatic, exact, stochastic, sparse };

/// What samples are compared by.
enum class SimilarityKind : std::uint8_t {
    automatic,
    influence,
    learnt,  ///< what propagation learnt of two samples
    file     ///< an embedding file
};

struct FacilityLocationSettings {
    SimilarityKind similarity = SimilarityKind::automatic;
    std::string similarity_file;  ///< of SimilarityKind::file
    std::string held;             ///< file of ids
    double held_weight = 1.0;     ///< nu
    double target_weight = 1.0;   ///< eta
    Greedy greedy = Greedy::automatic;
    std::int64_t neighbours = 64;
    double memory_gb = 1.0;       ///< for similarities that a rank keeps
    std::int64_t file_width = 0;  ///< numbers of a row of similarity_file, once it was looked at
};

}  // namespace idistill::selection
