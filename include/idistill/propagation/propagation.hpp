#pragma once
// The family of propagations: from the exact influence of a few landmarks to that of any sample.

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "idistill/data/sample_set.hpp"
#include "idistill/influence/influence.hpp"
#include "idistill/io/result_file.hpp"
#include "idistill/model/planner.hpp"
#include "idistill/options/values.hpp"
#include "idistill/propagation/trust.hpp"
#include "idistill/selection/similarity.hpp"
#include "idistill/work/work.hpp"

namespace idistill::propagation {

/// Exact labels, the same on every rank.
struct Landmarks {
    std::vector<std::int64_t> rows;                        ///< (L) of the pool
    influence::Rows labels;                                ///< (L)
    torch::Tensor features;                                ///< (L x Propagation::width())
    std::vector<double> flops;                             ///< (L) planned, of the labels
    std::unordered_map<std::int64_t, std::int64_t> place;  ///< pool row -> place
    [[nodiscard]] std::int64_t count() const { return std::ssize(rows); }
};

/// Tasks of the columns that are predicted.
struct Tasks {
    std::vector<std::int32_t> of_column;  ///< (C)
    std::vector<std::string> names;
    std::vector<double> label_error;  ///< influence::Columns::task_error
    /// (C) rows of the targets' corpus that every column stands for; of a column without targets none.
    std::vector<std::vector<std::int64_t>> targets;
};

/// Of n samples.
struct Prediction {
    influence::Rows rows;
    torch::Tensor factors;  ///< (n x Propagation::factor_width()); undefined where that is 0
};

/// One propagation. Calls come in this order: plan, load, features, fit, then all others; fit may come again with more
/// landmarks.
class Propagation {
public:
    virtual ~Propagation() = default;

    /// Adds needs, and stages of its own, of fitting to these numbers of landmarks one after the other, ascending; each
    /// fit is as planned, but the last ones may not come. Throws Error(usage) for settings that the inputs cannot meet.
    virtual void plan(model::Planner& planner, const influence::Layout& layout,
                      const std::vector<std::int64_t>& landmark_counts) = 0;
    /// False where it never looks at the weights of the model.
    [[nodiscard]] virtual bool reads_weights() const { return true; }
    /// Numbers that it keeps of a landmark.
    [[nodiscard]] virtual std::int64_t width() const = 0;
    /// Planned FLOPs of the features of a sample with so many tokens, of which `labels` predict a label; and of
    /// predicting it.
    [[nodiscard]] virtual double feature_flops(std::int64_t tokens, std::int64_t labels) const = 0;
    [[nodiscard]] virtual double prediction_flops(std::int64_t tokens, std::int64_t labels) const = 0;

    /// Bytes that features() and predict() hold of their largest micro-batch of whole samples, and of a unit.
    [[nodiscard]] virtual plan::PassBytes pass_bytes(const plan::Batch& largest) const = 0;
    [[nodiscard]] virtual double unit_bytes(const plan::Batch& largest) const = 0;

    /// Collective. All of them outlive the propagation; `targets` may be the pool itself.
    virtual void load(comm::Communicator& comm, const model::Decoder& decoder, const data::Corpus& pool,
                      const data::Corpus& targets, const plan::UsableRows& usable) = 0;
    /// What of its inputs decides the numbers, as JSON.
    virtual void identify(nlohmann::json& identity) const = 0;

    /// (n x width()) fp32, on this rank alone.
    [[nodiscard]] virtual torch::Tensor features(const data::SampleSet& landmarks) const = 0;
    /// Collective: does the stages that it planned. Throws Error(bad_input) where no landmark can be used.
    virtual void fit(const work::Work& work, const data::Corpus& pool, const Landmarks& landmarks,
                     const Tasks& tasks) = 0;
    /// Influence of any samples, on this rank alone.
    [[nodiscard]] virtual Prediction predict(const data::SampleSet& set) const = 0;

    /// What it judges itself by, in words: "leave-one-out".
    [[nodiscard]] virtual std::string judged_by() const = 0;
    /// How well predictions of landmarks that know nothing of their labels meet these.
    [[nodiscard]] virtual const Trust& trust() const = 0;
    /// (L x C) these predictions; NaN for landmarks that have none: that were not used, or that all was learnt from.
    [[nodiscard]] virtual const torch::Tensor& leave_one_out() const = 0;
    /// F: numbers of a sample that its similarity to others is computed from, where influence between samples of the
    /// pool is learnt; 0: it is not. After plan().
    [[nodiscard]] virtual std::int64_t factor_width() const { return 0; }
    /// (n x F) of samples with these features (n x width()), on this rank alone. What is learnt by a fit decides them.
    [[nodiscard]] virtual torch::Tensor factors([[maybe_unused]] const torch::Tensor& features) const { return {}; }
    /// Influence of a candidate on a represented sample, of factors that `read` gives. It refers to the propagation.
    [[nodiscard]] virtual std::unique_ptr<selection::Similarity> similarity(
        [[maybe_unused]] selection::ReadFactors read) const {
        return nullptr;
    }

    /// What a user should know of the fit, in plain words. On rank 0.
    [[nodiscard]] virtual std::string report(const Tasks& tasks) const = 0;
    /// Datasets and attributes of its own.
    virtual void write(io::ResultWriter& writer) const = 0;
};

/// The propagation that the values name; null for none: every sample's influence is computed.
std::unique_ptr<Propagation> make_propagation(const options::Values& values);

}  // namespace idistill::propagation
