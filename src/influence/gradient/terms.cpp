// Q of second order, from the columns of a run or from its result.

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "idistill/base/error.hpp"
#include "member.hpp"

namespace idistill::influence {
namespace {

template <class T>
std::vector<T> read_finite(const io::ResultReader& result, const std::string& dataset, std::int64_t count) {
    result.require<T>(dataset, {count});
    auto values = result.read<T>(dataset);
    for (const T value : values)
        if (!std::isfinite(value)) result.refuse(dataset, "finite numbers", fmt::format("{}", value));
    return values;
}

bool has_optimizer(const io::ResultReader& result) { return !result.setting("optimizer").empty(); }

}  // namespace

std::vector<double> fisher_weights(const std::vector<std::int32_t>& label_tokens, const std::vector<float>& norm,
                                   bool cosine) {
    std::vector<double> weights;
    const auto count = static_cast<double>(label_tokens.size());
    for (std::size_t t = 0; t < label_tokens.size(); ++t)
        weights.push_back(static_cast<double>(label_tokens[t]) * (cosine ? static_cast<double>(norm[t]) : 1.0) / count);
    return weights;
}

std::vector<double> hessian_weights(const std::vector<double>& value) {
    std::vector<double> weights;
    weights.reserve(value.size());
    for (const double mu : value) weights.push_back(mu == 0.0 ? 0.0 : std::copysign(1.0, mu));
    return weights;
}

CurvatureTerms read_fisher(const io::ResultReader& result) {
    if (const auto columns = result.setting("columns"); columns != "samples")
        throw Error(ExitCode::bad_input,
                    {result.path(), "attribute settings", "columns = samples, for --order second-order",
                     "columns = " + (columns.empty() ? "nothing" : columns),
                     "Use --order first-order, without --learning-rate, or a result of --columns samples."});
    const auto count = result.width("/influence");
    const auto tokens = result.read_bounded<std::int32_t>("/column/label_tokens", count, std::int64_t{1} << 31,
                                                          "numbers of label tokens");
    result.require<float>("/column/gradient_norm", {count});
    const auto norms = result.read<float>("/column/gradient_norm");
    for (const float norm : norms)
        if (!(norm > 0.0F) || !std::isfinite(norm))
            result.refuse("/column/gradient_norm", "finite norms above 0", fmt::format("{}", norm));
    CurvatureTerms terms{fisher_weights(tokens, norms, result.setting("normalize") == "cosine"), {}, {}};
    if (has_optimizer(result)) {
        const auto products = read_finite<float>(result, "/column/step_product", count);
        terms.offset.assign(products.begin(), products.end());
    }
    return terms;
}

CurvatureTerms read_hessian(const io::ResultReader& result) {
    if (const auto kind = result.setting("curvature"); kind != "hessian")
        throw Error(ExitCode::bad_input,
                    {result.path(), "attribute settings", "curvature = hessian, for a selection by it",
                     "curvature = " + (kind.empty() ? "nothing" : kind),
                     "Use --curvature fisher, or run again with --curvature hessian."});
    const auto rank = result.row_count("/curvature/value");
    result.require<float>(factor_dataset, {result.row_count("/influence"), rank});
    CurvatureTerms terms{hessian_weights(read_finite<double>(result, "/curvature/value", rank)), {}, factor_dataset};
    if (has_optimizer(result)) terms.offset = read_finite<double>(result, "/curvature/step_product", rank);
    return terms;
}

}  // namespace idistill::influence
