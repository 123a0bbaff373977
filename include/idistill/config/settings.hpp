#pragma once
// All settings of a run, from command line and TOML (README, "Options").

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace idistill::config {

enum class Command { run, plan, select, embed };

inline constexpr std::int64_t default_landmarks = 4096;
/// --landmarks auto: begins with the first, doubles, and stops at the last, or where a doubling gains less R2.
inline constexpr std::int64_t first_auto_landmarks = 256;
inline constexpr std::int64_t most_auto_landmarks = 8192;
inline constexpr double least_landmark_gain = 0.01;

/// A named task and its token file.
struct Target {
    std::string name;
    std::string path;
};

struct Settings {
    Command command = Command::run;

    // what
    std::string model;
    std::vector<std::string> pool;
    std::vector<Target> targets;
    std::string out;
    bool overwrite = false;
    std::string columns = "samples";  ///< samples | tasks
    std::string result;               ///< `select` only: the existing result

    // influence
    std::string optimizer;                 ///< file of its state; empty: a plain gradient step
    std::string parameters = "down_proj";  ///< regex on the names of linear layers
    std::string normalize = "cosine";      ///< cosine | none
    /// Pool samples whose mean unit gradient m (with an optimizer of a*g) is projected out of every target's gradient:
    /// t - (t.m / m.m) m. Idistill's own: all gradients share a direction that outweighs the task. 0: none, as
    /// published.
    std::int64_t contrast = 128;
    std::string sketch = "kronecker";  ///< kronecker | hadamard | rademacher | none
    std::int64_t sketch_dim =
        32768;  ///< entries of one sketch, all layers together (kronecker rounds down to a square a layer)

    // propagation
    std::string propagation = "kernel-ridge";  ///< kernel-ridge | none
    /// Nothing: default_landmarks, or all eligible samples if they are fewer; with landmarks_auto at most so many,
    /// nothing: most_auto_landmarks.
    std::optional<std::int64_t> landmarks;
    bool landmarks_auto = false;    ///< as many as leave-one-out finds worth their cost
    std::string embedding = "jvp";  ///< one or several joined by +, or auto: embedding_parts.hpp
    std::string kernel = "auto";    ///< auto | sum | product, of the kernels of several embeddings
    std::int64_t jvp_blocks = 4;    ///< blocks that the embedding runs through, jvp and hidden
    std::int64_t jvp_tangents = 2;
    std::int64_t jvp_rank = 8;  ///< 0: dense directions
    std::int64_t embedding_dim = 4096;
    bool metadata = true;
    std::optional<double> damping;    ///< nothing: auto
    std::optional<double> bandwidth;  ///< nothing: median, or auto
    bool bandwidth_auto = false;      ///< choose among multiples of the median; only without `bandwidth`
    /// Times the budget: so many of the best predicted samples get exact influence before selection. 0: none; nothing:
    /// auto, one of refine_factors.
    std::optional<double> refine = 0.0;

    // selection
    std::string selection = "auto";              ///< auto (resolved) | weighted | round-robin | top-k | random
    std::string influence = "auto";              ///< auto (resolved) | second-order | first-order, of weighted
    std::string curvature = "fisher";            ///< fisher | hessian: what stands for the targets' at second order
    std::int64_t rank = 16;                      ///< of the Hessian's decomposition
    std::optional<double> learning_rate;         ///< eta of second order; nothing: auto
    std::optional<double> lambda;                ///< of weighted; nothing: what gives the budget's number of weights
    std::optional<double> max_weight;            ///< of weighted: no /weight above it; or, where the next is set, above
    bool max_weight_of_mean = false;             ///< so many times the mean weight of --select samples, N/k
    std::map<std::string, double> source_share;  ///< of weighted: most of all weight that a source gets, 0 to 1
    std::string top_k_by = "mean";               ///< mean | max over tasks
    std::optional<std::int64_t> select_samples;
    std::optional<double> select_percent;
    std::optional<std::int64_t> select_tokens;
    std::map<std::string, std::int64_t> source_cap;

    // run
    std::uint64_t seed = 43;
    std::string device = "auto";  ///< auto | cpu (this build)
    std::string dtype = "auto";   ///< auto | fp32 (this build)
    int threads = 1;
    std::int64_t batch_tokens = 2048;
    /// Planned cost of one work unit: 10 s at 50 GFLOP/s, and so at most 30 s on the slowest core that a run is meant
    /// for.
    double unit_flops = 5e11;
    double stall_timeout_seconds = 600.0;
};

/// The settings with what `auto` of --selection and --influence means beside the others: weights to second order, as
/// far as that is possible. `parse` has done so but for `select`, which first learns the result's columns.
Settings resolved(Settings settings);

/// True when influence is computed exactly for every sample by contraction with task means: no sketch, no landmarks.
bool contracts_with_tasks(const Settings& settings);

/// True when weights are chosen by the targets' Hessian, in a run or from an existing result: its factor is needed.
bool uses_hessian(const Settings& settings);

/// True when the number of samples follows from --lambda instead of a budget.
bool leaves_number_open(const Settings& settings);

/// Parses arguments (without the program name). The first may be a command (plan, select, embed); `--config FILE` names
/// a flat TOML file with the option names as keys; where both name an option the command line counts. --help and
/// --version are not errors: then nothing is returned and `text` holds what to print. Without a budget it is 5 %.
/// Throws Error(usage) with where (command line, or file and line), field (option or key), what is allowed, what was
/// found and a remedy.
std::optional<Settings> parse(const std::vector<std::string>& arguments, std::string& text, const std::string& version);

/// Every setting of the command as JSON, keys as on the command line; what the result file records.
std::string to_json(const Settings& settings);

/// The part of the settings that decides the numbers and so must agree for a restart: a flat JSON object. Without rank
/// count, paths (the caller adds fingerprints of model, pool and targets), selection, timeouts and settings that have
/// no effect.
std::string identity_json(const Settings& settings);

/// The effective settings as an aligned table for people; settings without effect are left out.
std::string to_table(const Settings& settings);

}  // namespace idistill::config
