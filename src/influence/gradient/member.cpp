#include "member.hpp"

#include <ATen/ATen.h>

#include <limits>
#include <utility>

#include "idistill/base/error.hpp"
#include "idistill/influence/gradient/options.hpp"
#include "idistill/influence/gradient/passes.hpp"
#include "idistill/influence/members.hpp"

namespace idistill::influence {

Member gradient_member();  // listed in members.cpp

namespace {

using torch::Tensor;

class GradientInfluence final : public Influence {
public:
    explicit GradientInfluence(const options::Values& values) : values_(values) {}

    void plan(model::Planner& planner, const Wanted& wanted) override {
        plan_ = plan_gradients(values_, planner, wanted);
        layout_.columns = inputs().columns == options::ColumnKind::tasks ? plan_.tasks : plan_.targets();
        layout_.extras = {{.dataset = "/gradient_norm", .width = 1, .logarithmic = true}};
        if (plan_.curvature_columns > 0)
            layout_.extras.push_back({.dataset = factor_dataset, .width = plan_.curvature_columns});
        // Both propagate better than their product (Spearman 0.87 against 0.81 on a real pool).
        layout_.per_unit = !cosine();
        cost_.emplace(planner.model, plan_.layers, settings().sketch, plan_.sketch);
        model_config_ = planner.model;
        plan_result(planner.plan);
    }

    [[nodiscard]] const Layout& layout() const override { return layout_; }

    [[nodiscard]] double flops(const data::CorpusIndex& pool, std::int64_t row) const override {
        return exact_flops(plan_, *cost_, layout_, pool, row);
    }

    [[nodiscard]] double pass_bytes(const plan::Batch& largest) const override {
        return influence::pass_bytes(settings(), plan_, model_config_, largest);
    }
    [[nodiscard]] double unit_bytes(const plan::Batch& largest) const override {
        const auto width = plan_.contracts ? layout_.products() : plan_.sketch.width;
        return 4.0 * static_cast<double>(width) * static_cast<double>(largest.rows + largest.samples);
    }

    void check_files(const model::ModelConfig& config) const override {
        if (!settings().optimizer.empty())
            OptimizerFile(settings().optimizer, model::chosen_layers(config, settings().parameters));
    }

    void load(comm::Communicator& comm, const model::Decoder& decoder) override {
        model::ChosenLayers chosen(decoder.config(), plan_.layers);
        auto optimizer = load_optimizer(comm, settings().optimizer, plan_.layers);
        auto sketch = plan_.contracts ? nullptr
                                      : make_sketch(settings().sketch, plan_.layers, plan_.sketch.width, run().seed,
                                                    decoder.options());
        model_.reset(new GradientModel{decoder, std::move(chosen), std::move(optimizer), std::move(sketch)});
    }

    void identify(nlohmann::json& identity) const override {
        if (!model_->optimizer.sha256.empty()) identity["optimizer sha256"] = model_->optimizer.sha256;
    }

    std::unique_ptr<Columns> columns(const work::Work& work, const data::Corpus& pool,
                                     const data::Corpus& targets) override {
        return label_targets({.settings = settings(),
                              .columns = inputs().columns,
                              .names = inputs().targets,
                              .model_directory = inputs().model,
                              .seed = run().seed,
                              .batch_tokens = run().batch_tokens,
                              .plan = plan_,
                              .model = *model_,
                              .pool = pool,
                              .targets = targets,
                              .work = work});
    }

    /// By sketches with the targets' sketches, or without a sketch by contraction with their directions; of gradients
    /// multiplied by the optimizer's factors.
    [[nodiscard]] Rows rows(const data::Samples& samples, const Columns& prepared) const override {
        const auto& columns = of(prepared);
        GradientRows g;
        if (model_->sketch) {
            g = gradient_sketches(model_->decoder, model_->chosen, *model_->sketch, samples, run().batch_tokens,
                                  model_->optimizer.preconditioner);
            g.features = at::mm(g.features, columns.sketches.to(g.features.options()).t());
        } else {
            g = gradient_products(model_->decoder, model_->chosen, columns.directions, samples, run().batch_tokens,
                                  model_->optimizer.preconditioner);
        }
        // A gradient that is zero or not finite has no direction: its influence is NaN, which quarantines the sample.
        const auto usable = at::logical_and(at::isfinite(g.norm), g.norm.gt(0)).unsqueeze(1);
        return {g.norm.unsqueeze(1),
                at::where(usable, cosine() ? g.features / g.norm.unsqueeze(1) : g.features,
                          at::full({}, std::numeric_limits<float>::quiet_NaN(), g.features.options()))};
    }

    [[nodiscard]] CurvatureTerms curvature(const Columns& prepared, bool of_extras) const override {
        const auto& columns = of(prepared);
        if (of_extras) return {hessian_weights(columns.curvature), columns.curvature_step, factor_dataset};
        return {fisher_weights(columns.label_tokens, columns.norm, cosine()),
                {columns.step_product.begin(), columns.step_product.end()},
                {}};
    }

    [[nodiscard]] CurvatureTerms stored_curvature(const io::ResultReader& result, bool of_extras) const override {
        return of_extras ? read_hessian(result) : read_fisher(result);
    }

    void write(io::ResultWriter& writer, const Columns& prepared) const override {
        const auto& columns = of(prepared);
        writer.small<std::int32_t>("/column/label_tokens", columns.label_tokens);
        writer.small<float>("/column/gradient_norm", columns.norm);
        if (!columns.step_product.empty()) writer.small<float>("/column/step_product", columns.step_product);
        if (!columns.curvature.empty()) writer.small<double>("/curvature/value", columns.curvature);
        if (!columns.curvature_step.empty()) writer.small<double>("/curvature/step_product", columns.curvature_step);
        writer.small<std::int64_t>("/contrast/index", columns.contrast);
        writer.attribute("loss", std::string("mean cross entropy over the label tokens of a sample"));
        if (!model_->optimizer.sha256.empty()) writer.attribute("optimizer_sha256", model_->optimizer.sha256);
    }

private:
    /// What write() writes.
    void plan_result(plan::Plan& plan) const {
        const bool optimizer = plan_.preconditioned;
        plan.result.push_back({"/column/label_tokens", layout_.columns, 4.0});
        plan.result.push_back({"/column/gradient_norm", layout_.columns, 4.0});
        if (plan_.step_products > 0) plan.result.push_back({"/column/step_product", layout_.columns, 4.0});
        if (plan_.curvature_columns > 0) plan.result.push_back({"/curvature/value", plan_.curvature_columns, 8.0});
        if (plan_.curvature_columns > 0 && optimizer)
            plan.result.push_back({"/curvature/step_product", plan_.curvature_columns, 8.0});
        plan.result.push_back({"/contrast/index", std::ssize(plan_.contrast_rows), 8.0});
    }

    static const GradientColumns& of(const Columns& columns) { return static_cast<const GradientColumns&>(columns); }
    [[nodiscard]] const GradientSettings& settings() const { return values_.of<GradientSettings>(); }
    [[nodiscard]] const options::InputSettings& inputs() const { return values_.of<options::InputSettings>(); }
    [[nodiscard]] const options::RunSettings& run() const { return values_.of<options::RunSettings>(); }
    [[nodiscard]] bool cosine() const { return settings().normalize == Normalize::cosine; }

    options::Values values_;
    GradientPlan plan_;
    model::ModelConfig model_config_;
    Layout layout_;
    std::optional<GradientCost> cost_;
    std::unique_ptr<GradientModel> model_;
};

}  // namespace

Member gradient_member() {
    return {.name = "gradient",
            .help = "of a training step on a sample, on the targets' loss",
            .make = [](const options::Values& values) -> std::unique_ptr<Influence> {
                return std::make_unique<GradientInfluence>(values);
            },
            .options = gradient_options,
            .idle = idle_gradient};
}

}  // namespace idistill::influence
