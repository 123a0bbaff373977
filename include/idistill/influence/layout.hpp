#pragma once
// What exact influence knows of a sample, and of the columns it is for. No LibTorch here.

#include <cstdint>
#include <string>
#include <vector>

#include "idistill/plan/stage.hpp"

namespace idistill::influence {

/// Numbers of a sample that propagate beside its influence.
struct Extra {
    std::string dataset;  ///< of the result, "/gradient_norm"
    std::int64_t width = 1;
    bool logarithmic = false;  ///< positive, fitted as its logarithm
};

/// Datasets of the state that keep the two parts of a Layout.
inline constexpr const char* logarithms_column = "norm";
inline constexpr const char* products_column = "influence";

/// A row of influence: the columns, then the extras that are fitted as they are ("products" together), and beside them
/// those that are fitted as logarithms.
struct Layout {
    std::int64_t columns = 0;
    std::vector<Extra> extras;
    /// Products are fitted per unit of the first logarithmic extra and multiplied by it afterwards.
    bool per_unit = false;

    [[nodiscard]] std::int64_t products() const { return columns + width_of(false); }
    [[nodiscard]] std::int64_t logarithms() const { return width_of(true); }
    [[nodiscard]] std::int64_t fitted() const { return products() + logarithms(); }
    /// Datasets of the state, in the order of Rows.
    [[nodiscard]] std::vector<plan::Column> state_columns() const {
        std::vector<plan::Column> state;
        if (logarithms() > 0) state.push_back({logarithms_column, logarithms()});
        state.push_back({products_column, products()});
        return state;
    }

private:
    [[nodiscard]] std::int64_t width_of(bool logarithmic) const {
        std::int64_t width = 0;
        for (const auto& extra : extras) width += extra.logarithmic == logarithmic ? extra.width : 0;
        return width;
    }
};

/// Q of second order as a thin product, F diag(weight) F' up to its scale: F is the influence itself, or the extra
/// columns behind it.
struct CurvatureTerms {
    std::vector<double> weight;  ///< (columns of F)
    /// (columns of F; empty: 0) product of what a column stands for with the constant part of the optimizer's step.
    std::vector<double> offset;
    std::string dataset;  ///< of the result, that has F; empty: the influence itself
};

}  // namespace idistill::influence
