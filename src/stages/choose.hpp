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
    bool cosine = true;                      ///< influence is of gradients of unit length
};

/// (C) learning rate times what column t of the influence counts in Q: T_t / M, as H_T ~ (1/M) sum_t T_t g_t g_t'
/// (METHOD.md section 4). With cosine the target loss is mean_t l_t / |g_t| (section 1), whose Hessian is as much
/// smaller, while the column is short of two factors |g_t|: T_t |g_t| / M.
std::vector<double> fisher_curvature(double learning_rate, const ColumnFacts& columns);

/// Influence of all samples.
struct InfluenceRows {
    std::int64_t columns = 0;
    /// Gives rows of influence (rows x columns), of any part of the pool on any rank.
    std::function<void(std::int64_t first, std::int64_t count, std::span<float> out)> read;
};

/// Collective. `facts` is asked at second order only. Throws Error(usage) as the rules do, and for a share of a source
/// that is none of these.
selection::Selection choose(const config::Settings& settings, comm::Communicator& comm,
                            const selection::Request& request, InfluenceRows influence,
                            const std::vector<std::string>& source_names, const std::function<ColumnFacts()>& facts);

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
