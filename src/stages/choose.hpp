#pragma once
// The rule of the settings, from the influences of a run or of an existing result.

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "run.hpp"

namespace idistill::stages {

/// What the target Fisher takes from the columns of the influence, which must be target samples.
struct ColumnFacts {
    std::vector<std::int32_t> label_tokens;  ///< (C) T_t
    std::vector<float> gradient_norm;        ///< (C) |g_t|
    std::vector<float> step_product;         ///< (C) of the column with the optimizer's b; empty without
    bool cosine = true;                      ///< influence is of gradients of unit length
};

/// (C) What column t of the influence counts in Q: T_t / M, as H_T ~ (1/M) sum_t T_t g_t g_t' for losses l_t that are
/// means over T_t tokens. With cosine the target loss is mean_t l_t / |g_t|, whose Hessian is as much smaller, while
/// the column is short of two factors |g_t|: T_t |g_t| / M.
std::vector<double> fisher_curvature(const ColumnFacts& columns);

/// What column j of the Hessian's factor counts in Q: the sign of mu_j (`value`), as the factor has its size; 0 for 0.
std::vector<double> hessian_curvature(const std::vector<double>& value);

/// What the Hessian takes beside its factor.
struct HessianFacts {
    std::vector<double> value;         ///< (r) mu
    std::vector<double> step_product;  ///< (r) of the factor's directions with the optimizer's b; empty without
};

/// What there is to choose by, of any part of the pool on any rank.
struct Influences {
    using Read = std::function<void(std::int64_t first, std::int64_t count, std::span<float> out)>;
    std::int64_t columns = 0;
    Read read;                              ///< rows of influence (rows x columns)
    std::function<ColumnFacts()> facts;     ///< asked at second order with the Fisher
    std::function<HessianFacts()> hessian;  ///< this and the next are asked with the Hessian
    Read read_with_factor;                  ///< the same rows, each with its row of the factor behind it
};

/// Collective. Throws Error(usage) as the rules do, and for a share of a source that is none of these.
selection::Selection choose(const config::Settings& settings, comm::Communicator& comm,
                            const selection::Request& request, const Influences& influences,
                            const std::vector<std::string>& source_names);

/// Throws Error(usage) where --max-weight and --source-share leave no room for the weights, as far as can be said
/// before influence is known: of the request, budget, source and eligible count.
void check_weight_limits(const config::Settings& settings, const selection::Request& request,
                         const std::vector<std::string>& source_names);

/// What the weights came to, for people; empty where all are equal.
std::string weights_text(const config::Settings& settings, const selection::Selection& selection,
                         std::int64_t pool_rows, const std::vector<std::string>& source_names);

/// Attributes weights_*; those of an earlier selection are removed where there is no report.
void write_weight_report(io::ResultWriter& writer, const selection::Selection& selection);

}  // namespace idistill::stages
