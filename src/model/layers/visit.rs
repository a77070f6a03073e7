//! Visitors over the parameters of a module, by checkpoint name.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};

/// The path of a parameter in the module, which is its name in the checkpoint; variants of enums are not part of it.
#[derive(Default)]
struct Name(Vec<String>);

impl Name {
    fn enter(&mut self, name: &str, container: &str) {
        if !container.starts_with("Enum:") {
            self.0.push(name.to_owned());
        }
    }

    fn exit(&mut self, container: &str) {
        if !container.starts_with("Enum:") {
            self.0.pop();
        }
    }

    fn full(&self) -> String {
        self.0.join(".")
    }
}

/// Calls `visit` with every parameter's checkpoint name, flat values and shape.
pub(in crate::model) fn for_each(module: &impl Module, visit: impl FnMut(&str, Tensor<1>, &[usize])) {
    struct Visitor<F>(Name, F);
    impl<F: FnMut(&str, Tensor<1>, &[usize])> ModuleVisitor for Visitor<F> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.0.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, container: &str) {
            self.0.exit(container);
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            let shape = tensor.dims();
            (self.1)(&self.0.full(), tensor.flatten(0, D - 1), &shape);
        }
    }
    module.visit(&mut Visitor(Name::default(), visit));
}

/// Removes the gradient of every parameter from `gradients` and passes it on, flat; parameters without a gradient are skipped.
pub(in crate::model) fn take_gradients(
    module: &impl Module,
    gradients: &mut Gradients,
    take: impl FnMut(&str, Tensor<1>),
) {
    struct Visitor<'a, F>(Name, &'a mut Gradients, F);
    impl<F: FnMut(&str, Tensor<1>)> ModuleVisitor for Visitor<'_, F> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.0.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, container: &str) {
            self.0.exit(container);
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad_remove(self.1) {
                (self.2)(&self.0.full(), gradient.flatten(0, D - 1));
            }
        }
    }
    module.visit(&mut Visitor(Name::default(), gradients, take));
}

/// Replaces every parameter by the result of `replace` for its checkpoint name and flat values.
pub(in crate::model) fn map<M: Module>(module: M, replace: impl FnMut(&str, Tensor<1>) -> Tensor<1>) -> M {
    struct Mapper<F>(Name, F);
    impl<F: FnMut(&str, Tensor<1>) -> Tensor<1>> ModuleMapper for Mapper<F> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.0.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, container: &str) {
            self.0.exit(container);
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, tensor, mapper) = param.consume();
            let (shape, trains) = (tensor.dims(), tensor.is_require_grad());
            let tensor = (self.1)(&self.0.full(), tensor.inner().flatten(0, D - 1)).reshape(shape);
            let tensor = if trains { tensor.autodiff().require_grad() } else { tensor };
            Param::from_mapped_value(id, tensor, mapper)
        }
    }
    module.map(&mut Mapper(Name::default(), replace))
}
